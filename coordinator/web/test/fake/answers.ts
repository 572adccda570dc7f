/** What the fake coordinator makes of what it knows. */

import type { Grid, RunEntry, RunEvent } from "../../src/api/types.ts";
import { parseInstance } from "../../src/state/reduce.ts";
import type { FakeRun } from "./data.ts";

/** An answer of 400 and above. */
export class Refused extends Error {
  constructor(readonly status: number, readonly kind: string, message: string, readonly help = "", readonly headers: Record<string, string> = {}) {
    super(message);
  }
}

export function forList({ status, source }: RunEntry): RunEntry {
  const network = status.network && { ...status.network, lanes: [], stalls: [] };
  return { status: { ...status, network, failures: status.failures.slice(0, 3) }, source };
}

export function gridOf(run: FakeRun): Grid {
  const { status } = run.entry;
  return {
    run: status.run, at_ms: 92_000, revision: run.revision, groups: status.groups.map(([id, counts]) => [id, counts.want]),
    placement: run.placement, states: Buffer.from(run.states).toString("base64"),
  };
}

export function eventsOf(run: FakeRun, query: URLSearchParams, over: boolean): unknown {
  const asked = Number(query.get("from") ?? 0);
  const from = asked < 0 ? Math.max(0, run.events.length + asked) : asked;
  const limit = Number(query.get("limit") ?? 1000);
  const kinds = query.get("kinds")?.split(",");
  const events: RunEvent[] = [];
  let next = from;
  while (next < run.events.length && events.length < limit) {
    const event = run.events[next]!;
    if (!kinds || kinds.includes(event.kind)) events.push(event);
    next += 1;
  }
  return { from, next, end: next >= run.events.length, over, events };
}

function chooser(run: FakeRun, query: URLSearchParams): (line: { group: string; instance: number }) => boolean {
  const groups = run.entry.status.groups.map(([id, counts]): [string, number] => [id, counts.want]);
  const group = query.get("group");
  const text = query.get("instance");
  const instance = text === null ? null : parseInstance(groups, text);
  if (text !== null && instance === null) throw new Refused(404, "not_found", `${run.entry.status.name} has no instance \`${text}\``);
  return (line) => (group === null || line.group === group) && (instance === null || line.instance === instance);
}

export function logsOf(run: FakeRun, query: URLSearchParams, over: boolean): unknown {
  if (!over) throw new Refused(503, "unavailable", `${run.entry.status.name} is going on, and its logs are stored at its end`, "", { "Retry-After": "10" });
  let regex: RegExp | null = null;
  try {
    regex = query.get("regex") === null ? null : new RegExp(query.get("regex")!);
  } catch {
    throw new Refused(400, "invalid", `\`${query.get("regex")}\` is not a regular expression`);
  }
  const takes = chooser(run, query);
  const q = (query.get("q") ?? "").toLowerCase();
  const fit = run.logs.filter((line) => takes(line) && line.line.toLowerCase().includes(q) && (!regex || regex.test(line.line)) &&
    (query.get("stream") === null || line.stderr === (query.get("stream") === "stderr")));
  const from = Number(query.get("next") ?? 0);
  const limit = Number(query.get("limit") ?? 1000);
  const next = from + limit < fit.length ? String(from + limit) : null;
  return { lines: fit.slice(from, from + limit), next, left_out: query.get("group") || query.get("instance") ? 0 : 12 };
}

export function artifactsOf(run: FakeRun, query: URLSearchParams, over: boolean): unknown {
  if (!over) throw new Refused(404, "not_found", `the outputs of ${run.entry.status.name} are stored at its end`);
  const takes = chooser(run, query);
  const fit = run.files.filter((file) => takes(file) && file.path.toLowerCase().includes((query.get("q") ?? "").toLowerCase()));
  const from = Number(query.get("from") ?? 0);
  const limit = Number(query.get("limit") ?? 500);
  return { files: fit.slice(from, from + limit), total: fit.length, bytes: fit.reduce((sum, file) => sum + file.size, 0), more: from + limit < fit.length, skipped: ["eu-home[3]: a socket is not stored"] };
}
