/** What messages of the stream make of what is known. Pure: each takes the old and gives the new. */

import { bytes } from "../api/export.ts";
import type { Grid, GridChange, InstanceRange, RunEntry, RunEvent, RunList } from "../api/types.ts";

/** Runs by id. */
export type Runs = ReadonlyMap<string, RunEntry>;

/** The full list in place of what was known. */
export function runsFull(list: RunList): Runs {
  return new Map(list.runs.map((entry) => [entry.status.run, entry]));
}

/** One run that is new or has changed. An older revision changes nothing. */
export function runChanged(runs: Runs, entry: RunEntry): Runs {
  const known = runs.get(entry.status.run);
  if (known && known.status.revision > entry.status.revision) return runs;
  return new Map(runs).set(entry.status.run, entry);
}

/** Newest first: ids are ordered by time. */
export function newestFirst(runs: Runs): RunEntry[] {
  return [...runs.values()].sort((one, other) => (one.status.run < other.status.run ? 1 : -1));
}

/** Events of a run that are known, without a hole, from line `from` on. */
export type EventLog = { from: number; events: readonly RunEvent[] };

/** How many events are kept for a page that only shows the newest. */
const KEPT = 20_000;

/** Adds lines; `gap` when those in between are not known, and the log then begins with the new ones. */
export function eventsAdded(log: EventLog | null, from: number, events: RunEvent[]): { log: EventLog; gap: boolean } {
  if (log === null) return { log: { from, events }, gap: false };
  const next = log.from + log.events.length;
  if (from > next) return { log: { from, events }, gap: true };
  const fresh = events.slice(next - from);
  if (fresh.length === 0) return { log, gap: false };
  const all = [...log.events, ...fresh];
  const over = Math.max(0, all.length - KEPT);
  return { log: { from: log.from + over, events: all.slice(over) }, gap: false };
}

/** The states of a run's instances, unpacked. */
export type GridState = {
  run: string; atMs: number; revision: number;
  groups: [id: string, count: number][];
  placement: [worker: string, ranges: InstanceRange[]][];
  states: Uint8Array;
};

export function gridFull(grid: Grid): GridState {
  return {
    run: grid.run, atMs: grid.at_ms, revision: grid.revision,
    groups: grid.groups, placement: grid.placement, states: bytes(grid.states),
  };
}

/** Applies a change; null when it does not follow what is known and the grid has to be asked for. */
export function gridChanged(grid: GridState, change: GridChange): GridState | null {
  if (change.run !== grid.run || change.before !== grid.revision) return null;
  const states = grid.states.slice();
  for (const [first, count, state] of change.changes) states.fill(state, first, first + count);
  return { ...grid, atMs: change.at_ms, revision: change.revision, states };
}

/** How many instances have each state. */
export function countStates(states: Uint8Array, from = 0, to = states.length): number[] {
  const counts = new Array<number>(STATES.length).fill(0);
  for (let at = from; at < to; at += 1) {
    const state = states[at] ?? 0;
    if (state < STATES.length) counts[state] = (counts[state] ?? 0) + 1;
  }
  return counts;
}

/** The words of the codes, as docs/http-api.md has them. */
export const STATES = [
  "waiting", "preparing", "ready", "running", "down", "paused",
  "success", "failure", "timed out", "canceled", "aborted", "lost", "killed",
] as const;

/** Whether an instance in this state ended as it should not have. */
export function isBad(state: number): boolean {
  return state === 7 || state === 8 || state === 10 || state === 11;
}

/** The group of an instance and its number there. */
export function locate(groups: readonly [string, number][], instance: number): { group: string; inGroup: number } | null {
  let first = 0;
  for (const [group, count] of groups) {
    if (instance < first + count) return { group, inGroup: instance - first };
    first += count;
  }
  return null;
}

/** The instance that a text like `seeders:3` or `17` means; null when there is none. */
export function parseInstance(groups: readonly [string, number][], text: string): number | null {
  const match = /^(?:(.+):)?(\d+)$/.exec(text.trim());
  if (!match) return null;
  const number = Number(match[2]);
  let first = 0;
  for (const [group, count] of groups) {
    if (match[1] === group) return number < count ? first + number : null;
    first += count;
  }
  return match[1] === undefined && number < first ? number : null;
}

/** The worker that has an instance. */
export function workerOf(placement: readonly [string, InstanceRange[]][], instance: number): string | null {
  const has = (range: InstanceRange) => instance >= range.first && instance < range.first + range.count;
  return placement.find(([, ranges]) => ranges.some(has))?.[0] ?? null;
}
