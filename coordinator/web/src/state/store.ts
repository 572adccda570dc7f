/** What this tab knows, and how messages of the stream change it. */

import { batch, signal } from "@preact/signals";
import { getJson, withQuery } from "../api/client.ts";
import type {
  Events, Grid, GridChange, Info, LogNews, QueueEntry, RunEntry, RunEvent, RunList, WorkerStatus,
} from "../api/types.ts";
import type { Message } from "../api/sse.ts";
import { listen } from "../api/stream.ts";
import { eventsAdded, gridChanged, gridFull, runChanged, runsFull } from "./reduce.ts";
import type { EventLog, GridState, Runs } from "./reduce.ts";

export const info = signal<Info | null>(null);
/** The newest runs; null until they are known. */
export const runs = signal<Runs | null>(null);
export const workers = signal<WorkerStatus[] | null>(null);
export const queue = signal<QueueEntry[] | null>(null);
/** The run the page is about, whole. */
export const run = signal<RunEntry | null>(null);
export const eventLog = signal<EventLog | null>(null);
export const grid = signal<GridState | null>(null);
export const logNews = signal<LogNews | null>(null);
/** A clock for "ago" and running times, in Unix milliseconds. */
export const now = signal(Date.now());
/** Said aloud by screen readers. */
export const announced = signal("");

const handlers: Record<string, (data: never) => void> = {
  runs: (list: RunList) => (runs.value = runsFull(list)),
  run: (entry: RunEntry) => (runs.value = runChanged(runs.value ?? new Map(), entry)),
  run_full: takeRun,
  events: (data: { run: string; from: number; events: RunEvent[] }) => takeEvents(data),
  grid: (data: Grid) => (grid.value = gridFull(data)),
  grid_change: (change: GridChange) => void takeGridChange(change),
  workers: (list: WorkerStatus[]) => (workers.value = list),
  queue: (list: QueueEntry[]) => (queue.value = list),
  logs: (news: LogNews) => (logNews.value = news),
};

/** Begins to take in what the stream says. */
export function startStore(): void {
  listen((message: Message) => {
    const handler = handlers[message.event];
    if (!handler) return;
    let data: never;
    try {
      data = JSON.parse(message.data) as never;
    } catch {
      return;
    }
    batch(() => handler(data));
  });
  setInterval(() => (now.value = Date.now()), 1000);
}

/** Takes a whole run in, from the stream or from a call. */
export function takeRun(entry: RunEntry): void {
  const before = run.value;
  const same = before?.status.run === entry.status.run;
  if (before && same && before.status.revision > entry.status.revision) return;
  run.value = entry;
  if (runs.value) runs.value = runChanged(runs.value, entry);
  if (same && before?.status.verdict !== entry.status.verdict && entry.status.verdict) {
    announced.value = `${entry.status.name} has ${entry.status.verdict.replaceAll("_", " ")}`;
  }
}

/** Forgets what belongs to another run. */
export function enterRun(id: string | null): void {
  const known = run.value?.status;
  if (known && id !== null && (known.run === id || known.name === id)) return;
  batch(() => {
    run.value = null;
    eventLog.value = null;
    grid.value = null;
    logNews.value = null;
  });
}

function takeEvents(data: { run: string; from: number; events: RunEvent[] }): void {
  if (run.value && run.value.status.run !== data.run) return;
  const { log, gap } = eventsAdded(eventLog.value, data.from, data.events);
  const known = eventLog.value;
  eventLog.value = log;
  if (gap && known) void fillGap(data.run, known);
}

/** Asks for the lines after those that were known before a gap. */
async function fillGap(id: string, known: EventLog): Promise<void> {
  const from = known.from + known.events.length;
  const answer = await getJson<Events>(withQuery(`/runs/${id}/events`, { from, limit: 5000 }));
  if (!answer.ok) return;
  const later = eventLog.value;
  const filled = eventsAdded(known, answer.value.from, answer.value.events).log;
  if (!later) return;
  const { log, gap } = eventsAdded(filled, later.from, [...later.events]);
  if (!gap) eventLog.value = log;
}

async function takeGridChange(change: GridChange): Promise<void> {
  const known = grid.value;
  if (!known || known.run !== change.run) return;
  const changed = gridChanged(known, change);
  if (changed) {
    grid.value = changed;
    return;
  }
  const answer = await getJson<Grid>(`/runs/${change.run}/grid`);
  if (answer.ok) grid.value = gridFull(answer.value);
}
