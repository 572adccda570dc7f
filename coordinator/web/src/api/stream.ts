/**
 * The one stream of this tab: asks for the topics that pages want, hands messages on, and asks again when it ends.
 *
 * Whoever wants a topic says so with `want` and gives it back with the function he gets; a change of topics opens the
 * stream anew.
 */

import { signal } from "@preact/signals";
import { headers, isExport, open, token, wantsToken, withQuery } from "./client.ts";
import { SseParser } from "./sse.ts";
import type { Message } from "./sse.ts";

/** Nobody listens yet, it is being opened, it is there, or the server is gone. */
export type Connection = "idle" | "opening" | "live" | "gone" | "refused";
export const connection = signal<Connection>("idle");
/** When the next attempt is due, on the clock of `Date.now`. */
export const retryAt = signal(0);
/** Why the stream was refused, for people. */
export const refusedBecause = signal("");

/** After this long without a byte the server counts as gone: it says something every 15 s. */
const SILENCE_MS = 40_000;
const LONGEST_WAIT_MS = 30_000;
/** Changes of topics within this time open one stream. */
const SETTLE_MS = 30;

type Listener = (message: Message) => void;
const listeners = new Set<Listener>();
const wanted = new Map<string, number>();

let abort: AbortController | null = null;
let timer: ReturnType<typeof setTimeout> | undefined;
let openTopics = "";
let lastId = "";
let waits = 0;
let retryMs = 2000;

/** Hears every message of the stream. */
export function listen(listener: Listener): () => void {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

/** Wants a topic until the returned function is called. */
export function want(topic: string): () => void {
  if (isExport()) return () => undefined;
  wanted.set(topic, (wanted.get(topic) ?? 0) + 1);
  settle();
  let given = false;
  return () => {
    if (given) return;
    given = true;
    const left = (wanted.get(topic) ?? 1) - 1;
    if (left > 0) wanted.set(topic, left);
    else wanted.delete(topic);
    settle();
  };
}

/** Asks again at once, also when the server has refused. */
export function reconnect(): void {
  openTopics = "";
  waits = 0;
  settle();
}

token.subscribe(() => {
  if (wanted.size > 0) reconnect();
});

function settle(): void {
  clearTimeout(timer);
  timer = setTimeout(restart, SETTLE_MS);
}

function topics(): string {
  return [...wanted.keys()].sort().join(",");
}

function restart(): void {
  const now = topics();
  if (now === openTopics) return;
  // Other topics have other messages: an old sequence would leave their full states out.
  lastId = "";
  void follow(now);
}

async function follow(now: string): Promise<void> {
  abort?.abort();
  clearTimeout(timer);
  openTopics = now;
  if (now === "") {
    abort = null;
    return;
  }
  const mine = new AbortController();
  abort = mine;
  if (connection.value === "idle") connection.value = "opening";
  const more: Record<string, string> = { Accept: "text/event-stream" };
  if (lastId !== "") more["Last-Event-ID"] = lastId;
  const path = withQuery("/events", { topics: now });
  const answer = await open(path, { headers: headers(more), signal: mine.signal });
  if (mine.signal.aborted) return;
  if (!answer.ok) {
    const { status, message } = answer.problem;
    const final = status >= 400 && status < 500 && status !== 429;
    refusedBecause.value = final ? message : "";
    connection.value = final ? "refused" : "gone";
    if (!final) again(now);
    return;
  }
  connection.value = "live";
  wantsToken.value = null;
  waits = 0;
  await read(answer.value, mine);
  if (mine.signal.aborted && abort !== mine) return;
  connection.value = "gone";
  again(now);
}

async function read(response: Response, mine: AbortController): Promise<void> {
  const parser = new SseParser();
  const reader = response.body?.pipeThrough(new TextDecoderStream()).getReader();
  if (!reader) return;
  let silence: ReturnType<typeof setTimeout> | undefined;
  const beat = () => {
    clearTimeout(silence);
    silence = setTimeout(() => mine.abort(), SILENCE_MS);
  };
  try {
    for (;;) {
      beat();
      const { done, value } = await reader.read();
      if (done || (mine.signal.aborted && abort !== mine)) return;
      for (const message of parser.push(value)) {
        lastId = message.id || lastId;
        for (const listener of [...listeners]) listener(message);
      }
      retryMs = parser.retry ?? retryMs;
    }
  } catch {
    // The connection broke; the caller asks again.
  } finally {
    clearTimeout(silence);
  }
}

function again(now: string): void {
  const wait = Math.min(retryMs * 2 ** waits, LONGEST_WAIT_MS);
  waits += 1;
  retryAt.value = Date.now() + wait;
  clearTimeout(timer);
  timer = setTimeout(() => {
    if (topics() === now) void follow(now);
    else restart();
  }, wait);
}
