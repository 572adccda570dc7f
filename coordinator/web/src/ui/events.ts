/** Events of a run of some kinds: asked for, and followed. */

import { useEffect, useState } from "preact/hooks";
import { getJson, isExport, withQuery } from "../api/client.ts";
import type { Problem } from "../api/client.ts";
import type { Events, RunEvent } from "../api/types.ts";
import { eventLog } from "../state/store.ts";

export type EventsQuery = { events: RunEvent[] | null; problem: Problem | null; cut: boolean; reload: () => void };

const PAGE = 5000;
/** More than this many is not asked for; the page says that it is cut. */
const MOST = 50_000;

/** Events of these kinds; null is all. While the run goes on, what the stream tells is added. */
export function useEvents(run: string, kinds: readonly string[] | null, over: boolean): EventsQuery {
  const [state, setState] = useState<{ events: RunEvent[] | null; next: number; problem: Problem | null; cut: boolean }>(
    { events: null, next: 0, problem: null, cut: false },
  );
  const [times, setTimes] = useState(0);
  const wanted = kinds?.join(",") ?? "";
  useEffect(() => {
    let left = false;
    void collect(run, wanted).then((found) => {
      if (!left) setState(found);
    });
    return () => void (left = true);
  }, [run, wanted, over, times]);
  const log = eventLog.value;
  let events = state.events;
  if (events && log && !over && log.from + log.events.length > state.next) {
    const fresh = log.events.slice(Math.max(0, state.next - log.from));
    events = [...events, ...fresh.filter((event) => wanted === "" || kinds?.includes(event.kind))];
  }
  return { events, problem: state.problem, cut: state.cut, reload: () => setTimes((before) => before + 1) };
}

async function collect(run: string, wanted: string) {
  const base = `/runs/${run}/events`;
  const all: RunEvent[] = [];
  let from = 0;
  for (;;) {
    const path = isExport() ? base : withQuery(base, { from, limit: PAGE, kinds: wanted });
    const answer = await getJson<Events>(path);
    if (!answer.ok) return { events: all.length > 0 ? all : null, next: from, problem: answer.problem, cut: false };
    const kinds = wanted.split(",");
    all.push(...answer.value.events.filter((event) => wanted === "" || kinds.includes(event.kind)));
    const stuck = answer.value.next <= from;
    from = answer.value.next;
    if (answer.value.end || stuck) return { events: all, next: from, problem: null, cut: false };
    if (all.length >= MOST) return { events: all, next: from, problem: null, cut: true };
  }
}
