/** Events in lanes of a timeline. Pure. */

import type { RunEvent } from "../api/types.ts";

export type Lane = {
  name: string; tone: "busy" | "good" | "warn" | "bad";
  /** Moments, in milliseconds since the submission. */
  marks: number[];
  /** Times with a name; an open end lasts. */
  spans: { from: number; to: number | null; text: string; faint: boolean }[];
};

/** More groups than these share one lane. */
const MOST_GROUPS = 24;
const FAILED = new Set(["failure", "crash", "broken", "worker_lost", "schedule_failed", "network_failed", "cause"]);
const WARNED = new Set(["warning", "underlay", "worker_restarted", "attempt", "resumed", "dropped"]);

/** The lanes of a run that have anything in them. */
export function lanesOf(events: readonly RunEvent[], groups: readonly string[]): Lane[] {
  const lane = (name: string, tone: Lane["tone"], fits: (event: RunEvent) => boolean): Lane => (
    { name, tone, marks: events.filter(fits).map((event) => event.at_ms), spans: [] }
  );
  const phases = events.filter((event) => event.kind === "phase" && event.worker === undefined);
  const spans = phases.map((event, at) => ({
    from: event.at_ms, to: phases[at + 1]?.at_ms ?? null, text: event.text, faint: event.text === "queued" || at === phases.length - 1,
  }));
  const all: Lane[] = [
    { name: "phases", tone: "busy", marks: [], spans },
    lane("network schedule", "warn", (event) => event.kind === "schedule"),
    lane("strikes", "warn", (event) => event.kind === "strike" || event.kind === "instance_down"),
    lane("failures", "bad", (event) => FAILED.has(event.kind)),
    lane("warnings", "warn", (event) => WARNED.has(event.kind)),
    lane("builds", "busy", (event) => event.kind === "build"),
    lane("instances start", "good", (event) => event.kind === "instance_started"),
    lane("instances end", "busy", (event) => event.kind === "instance_ended"),
    ...groupLanes(events, groups),
  ];
  return all.filter((one) => one.marks.length > 0 || one.spans.length > 0);
}

/** What instances of each group say: stages as spans from the first that begins to the last that ends. */
function groupLanes(events: readonly RunEvent[], groups: readonly string[]): Lane[] {
  const own = groups.length > MOST_GROUPS ? ["all groups"] : groups;
  return own.map((group) => {
    const mine = events.filter((event) => event.group !== undefined && (own.length === 1 || event.group === group));
    const stages = new Map<string, { from: number; to: number | null; open: number }>();
    for (const event of mine) {
      if (event.kind === "stage_start") {
        const known = stages.get(event.text) ?? { from: event.at_ms, to: null, open: 0 };
        stages.set(event.text, { ...known, from: Math.min(known.from, event.at_ms), open: known.open + 1 });
      } else if (event.kind === "stage_end") {
        const known = stages.get(event.text);
        if (known) stages.set(event.text, { ...known, to: Math.max(known.to ?? 0, event.at_ms), open: known.open - 1 });
      }
    }
    const spans = [...stages].map(([text, stage]) => ({ from: stage.from, to: stage.open > 0 ? null : stage.to, text, faint: true }));
    const marks = mine.filter((event) => event.kind === "message").map((event) => event.at_ms);
    return { name: group, tone: "busy" as const, marks, spans };
  });
}

/** How many marks are in each of so many columns. */
export function binned(marks: readonly number[], end: number, columns: number): number[] {
  const heights = new Array<number>(columns).fill(0);
  for (const ms of marks) {
    const column = Math.min(columns - 1, Math.max(0, Math.floor((ms / end) * columns)));
    heights[column] = (heights[column] ?? 0) + 1;
  }
  return heights;
}

const STEPS = [0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14_400, 36_000, 86_400];

/** Round moments for an axis, about so many. */
export function ticks(end: number, wanted: number): number[] {
  const step = (STEPS.find((seconds) => (seconds * 1000 * wanted) >= end) ?? 172_800) * 1000;
  return Array.from({ length: Math.floor(end / step) + 1 }, (_, at) => at * step);
}
