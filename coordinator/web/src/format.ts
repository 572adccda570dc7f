/** Numbers, times and words as people read them. Pure. */

import type { Duration, GroupCounts, RunStatus, Verdict } from "./api/types.ts";

const THIN = "\u202f";

/** 12 345 with narrow spaces. */
export function count(value: number): string {
  return Math.round(value).toString().replace(/\B(?=(\d{3})+(?!\d))/g, THIN);
}

/** A length of time in milliseconds: `412 ms`, `3.2 s`, `1m41s`, `2h03m`. */
export function span(ms: number): string {
  if (!Number.isFinite(ms)) return "–";
  const sign = ms < 0 ? "−" : "";
  const size = Math.abs(ms);
  if (size < 1) return size === 0 ? "0 ms" : `${sign}${figures(size * 1000)} µs`;
  if (size < 1000) return `${sign}${figures(size)} ms`;
  if (size < 60_000) return `${sign}${figures(size / 1000)} s`;
  const seconds = Math.round(size / 1000);
  const two = (value: number) => String(value).padStart(2, "0");
  if (seconds < 3600) return `${sign}${Math.floor(seconds / 60)}m${two(seconds % 60)}s`;
  const minutes = Math.round(seconds / 60);
  if (minutes < 48 * 60) return `${sign}${Math.floor(minutes / 60)}h${two(minutes % 60)}m`;
  return `${sign}${figures(minutes / 1440)} d`;
}

/** A moment of a run: `01:37.402`. */
export function clock(ms: number): string {
  const sign = ms < 0 ? "−" : "";
  const size = Math.abs(Math.round(ms));
  const two = (value: number) => String(value).padStart(2, "0");
  const hours = Math.floor(size / 3_600_000);
  const rest = `${two(Math.floor(size / 60_000) % 60)}:${two(Math.floor(size / 1000) % 60)}`;
  return `${sign}${hours > 0 ? `${hours}:` : ""}${rest}.${String(size % 1000).padStart(3, "0")}`;
}

/** How long ago a moment in Unix milliseconds was. */
export function ago(unixMs: number, now: number): string {
  const ms = now - unixMs;
  if (ms < 5_000) return "just now";
  if (ms < 60_000) return `${Math.floor(ms / 1000)} s ago`;
  if (ms < 3_600_000) return `${Math.floor(ms / 60_000)} min ago`;
  if (ms < 48 * 3_600_000) return `${Math.floor(ms / 3_600_000)} h ago`;
  return `${Math.floor(ms / 86_400_000)} d ago`;
}

/** A moment in Unix milliseconds, for a tooltip or a table. */
export function date(unixMs: number): string {
  return `${new Date(unixMs).toISOString().slice(0, 19).replace("T", " ")} UTC`;
}

/** A duration as serde writes it, in milliseconds. */
export function millis(duration: Duration | undefined): number {
  return duration ? duration.secs * 1000 + duration.nanos / 1e6 : 0;
}

/** Bits per second. */
export function bps(value: number): string {
  return scaled(value, 1000, ["bit/s", "kbit/s", "Mbit/s", "Gbit/s", "Tbit/s"]);
}

export function bytes(value: number): string {
  return scaled(value, 1000, ["B", "kB", "MB", "GB", "TB"]);
}

function scaled(value: number, step: number, units: string[]): string {
  let size = value;
  let unit = 0;
  while (Math.abs(size) >= step && unit < units.length - 1) {
    size /= step;
    unit += 1;
  }
  return `${figures(size)} ${units[unit]}`;
}

/** A share of one as percent. */
export function percent(share: number): string {
  return `${figures(share * 100)} %`;
}

/** An amount in the base of a KPI's unit, as `common::kpi::unit::shown` has it. */
export function amount(value: number, unit: string): string {
  if (unit === "s") return span(value * 1000);
  if (unit === "B") return bytes(value);
  if (unit === "ratio") return percent(value);
  return unit === "" ? figures(value) : `${figures(value)} ${unit}`;
}

/** Three significant figures, and all digits of large numbers. */
export function figures(value: number): string {
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-3 || size >= 1e15)) return value.toExponential(2);
  if (size >= 1000) return value < 0 ? `−${count(size)}` : count(size);
  const decimals = size >= 100 ? 0 : size >= 10 ? 1 : size >= 1 ? 2 : 3;
  const text = value.toFixed(decimals);
  return (text.includes(".") ? text.replace(/\.?0+$/, "") : text).replace("-", "−");
}

/** `timed_out` as people write it. */
export function words(text: string): string {
  return text.replaceAll("_", " ");
}

/** One instance, nine instances. */
export function plural(number: number, one: string, many = `${one}s`): string {
  return `${count(number)} ${number === 1 ? one : many}`;
}

export type Tone = "good" | "bad" | "warn" | "busy" | "quiet";
export type Status = { word: string; glyph: string; tone: Tone };

const VERDICTS: Record<Verdict, Status> = {
  passed: { word: "passed", glyph: "✓", tone: "good" },
  failed: { word: "failed", glyph: "✗", tone: "bad" },
  inconclusive: { word: "inconclusive", glyph: "?", tone: "warn" },
  infra: { word: "infrastructure", glyph: "!", tone: "warn" },
  timed_out: { word: "timed out", glyph: "✗", tone: "bad" },
  canceled: { word: "canceled", glyph: "–", tone: "quiet" },
  rejected: { word: "rejected", glyph: "✗", tone: "bad" },
  unplaceable: { word: "unplaceable", glyph: "!", tone: "warn" },
};

export function verdictStatus(verdict: Verdict): Status {
  return VERDICTS[verdict] ?? { word: words(verdict), glyph: "?", tone: "warn" };
}

/** The verdict, or the phase of a run that is not over. */
export function runStatus(status: RunStatus): Status {
  if (status.verdict) return verdictStatus(status.verdict);
  if (status.forgotten) return { word: "forgotten", glyph: "!", tone: "warn" };
  return { word: status.phase, glyph: status.phase === "queued" ? "…" : "▸", tone: "busy" };
}

/** How true the network was. */
export function gradeStatus(grade: string): Status {
  if (grade === "exact" || grade === "good") return { word: grade, glyph: "✓", tone: "good" };
  if (grade === "degraded") return { word: grade, glyph: "!", tone: "warn" };
  return { word: grade, glyph: "–", tone: "quiet" };
}

/** All groups of a run together. */
export function totals(groups: [string, GroupCounts][]): Required<GroupCounts> {
  const sum: Required<GroupCounts> = {
    want: 0, ready: 0, running: 0, success: 0, failure: 0, timed_out: 0, canceled: 0, aborted: 0, lost: 0, killed: 0,
  };
  for (const [, counts] of groups) {
    for (const key of Object.keys(sum) as (keyof GroupCounts)[]) sum[key] += counts[key] ?? 0;
  }
  return sum;
}

/** Instances that have ended. */
export function ended(counts: GroupCounts): number {
  return counts.success + counts.failure + counts.timed_out + counts.canceled + counts.aborted + counts.lost +
    (counts.killed ?? 0);
}

/** How long a run took or has been taking, from its start; null before it. */
export function took(status: RunStatus, now: number): number | null {
  return status.started_ms === null ? null : (status.finished_ms ?? now) - status.started_ms;
}
