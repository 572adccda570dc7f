/** What a page asks the API for, and what came of it. */

import { useEffect, useRef, useState } from "preact/hooks";
import { getJson, getText, token } from "../api/client.ts";
import type { Answer, Problem } from "../api/client.ts";

export type Query<T> = { data: T | null; problem: Problem | null; loading: boolean; reload: () => void };

/** Asks for JSON. A path of null asks nothing. Data of another path is never shown. */
export function useJson<T>(path: string | null, again: unknown = 0): Query<T> {
  return useAnswer<T>(path, again, getJson);
}

export function useText(path: string | null): Query<string> {
  return useAnswer<string>(path, 0, getText);
}

type State<T> = { path: string | null; data: T | null; problem: Problem | null; loading: boolean };

function useAnswer<T>(
  path: string | null, again: unknown, ask: (path: string, abort: AbortSignal) => Promise<Answer<T>>,
): Query<T> {
  const [state, setState] = useState<State<T>>({ path, data: null, problem: null, loading: path !== null });
  const [times, setTimes] = useState(0);
  const who = token.value;
  const asking = useRef(ask);
  useEffect(() => {
    if (path === null) return undefined;
    const abort = new AbortController();
    setState((old) => ({ path, data: old.path === path ? old.data : null, problem: null, loading: true }));
    void asking.current(path, abort.signal).then((answer) => {
      if (abort.signal.aborted) return;
      // What is known is kept when it cannot be asked for again.
      setState((old) => answer.ok
        ? { path, data: answer.value, problem: null, loading: false }
        : { path, data: old.path === path ? old.data : null, problem: answer.problem, loading: false });
    });
    return () => abort.abort();
  }, [path, again, times, who]);
  const mine = state.path === path;
  return {
    data: mine ? state.data : null, problem: mine ? state.problem : null,
    loading: path !== null && (!mine || state.loading), reload: () => setTimes((before) => before + 1),
  };
}
