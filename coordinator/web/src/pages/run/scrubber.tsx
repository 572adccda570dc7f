/** Moves the moment of a replay: by hand, by play, by step, from event to event. */

import { useMemo } from "preact/hooks";
import type { RunEvent } from "../../api/types.ts";
import { clock } from "../../format.ts";
import { SPEEDS } from "../../graph/moment.ts";
import type { Moment } from "../../graph/moment.ts";
import { announced } from "../../state/store.ts";

/** Marks closer than this share of the whole are one mark. */
const APART = 1 / 300;
const BAD = new Set(["failure", "crash", "broken", "worker_lost", "schedule_failed", "network_failed"]);

export function Scrubber({ moment, marks, complete }: { moment: Moment; marks: RunEvent[]; complete: boolean }) {
  const at = moment.at.value;
  const end = moment.end.value;
  const { start } = moment;
  const playing = moment.playing.value;
  return (
    <div class="scrubber" role="group" aria-label="Time">
      <button type="button" class="primary" aria-label={playing ? "Pause" : "Play"} onClick={() => play(moment)}>{playing ? "❚❚" : "▶"}</button>
      <button type="button" aria-label="Event before" title="Event before (N)" onClick={() => jump(moment, marks, -1)}>«</button>
      <button type="button" aria-label="Back one second" title="Back one second (,)" onClick={() => moment.go(at - 1000)}>‹</button>
      <button type="button" aria-label="On one second" title="On one second (.)" onClick={() => moment.go(at + 1000)}>›</button>
      <button type="button" aria-label="Next event" title="Next event (n)" onClick={() => jump(moment, marks, 1)}>»</button>
      <output class="clock" aria-label="Moment">{clock(at)}</output>
      <div class="track">
        <Marks marks={marks} start={start} end={end} />
        <input type="range" aria-label="Moment of the run" aria-valuetext={clock(at)} min={start} max={Math.max(end, start + 1)} step={100} value={at}
          onInput={(event) => moment.go(Number(event.currentTarget.value))} />
      </div>
      <span class="muted">{clock(end)}{complete ? "" : " and on"}</span>
      <label class="row">Speed
        <select value={String(moment.speed.value)} onChange={(event) => (moment.speed.value = Number(event.currentTarget.value))}>
          {SPEEDS.map((speed) => <option key={speed} value={String(speed)}>×{speed}</option>)}
        </select>
      </label>
    </div>
  );
}

function Marks({ marks, start, end }: { marks: RunEvent[]; start: number; end: number }) {
  const shown = useMemo(() => {
    const found = new Map<number, { at: number; tone: string }>();
    for (const event of marks) {
      const share = (event.at_ms - start) / Math.max(1, end - start);
      if (share < 0 || share > 1) continue;
      const tone = BAD.has(event.kind) ? "bad" : event.kind === "phase" ? "" : "warn";
      const slot = Math.round(share / APART);
      if (found.get(slot)?.tone !== "bad") found.set(slot, { at: share, tone });
    }
    return [...found.values()];
  }, [marks, start, end]);
  return <div class="marks" aria-hidden="true">{shown.map((mark) => <i key={mark.at} class={mark.tone} style={{ left: `${mark.at * 100}%` }} />)}</div>;
}

export function play(moment: Moment): void {
  if (!moment.playing.value && moment.at.value >= moment.end.value) moment.go(moment.start);
  moment.playing.value = !moment.playing.value;
  announced.value = moment.playing.value ? "playing" : `stopped at ${clock(moment.at.value)}`;
}

/** Goes to the next event in a direction. */
export function jump(moment: Moment, marks: RunEvent[], way: 1 | -1): void {
  const at = moment.at.value;
  const next = way > 0
    ? marks.filter((event) => event.at_ms > at).reduce<RunEvent | null>((best, event) => (best === null || event.at_ms < best.at_ms ? event : best), null)
    : marks.filter((event) => event.at_ms < at).reduce<RunEvent | null>((best, event) => (best === null || event.at_ms >= best.at_ms ? event : best), null);
  if (!next) return;
  moment.go(next.at_ms);
  announced.value = `${clock(next.at_ms)} ${next.kind.replaceAll("_", " ")} ${next.text}`;
}

/** Space plays, comma and point step a tenth of a second, with Shift a second; n and N go from event to event. */
export function timeKeys(moment: Moment, marks: RunEvent[], event: KeyboardEvent): void {
  const at = moment.at.value;
  const keys: Record<string, () => void> = {
    " ": () => play(moment),
    ",": () => moment.go(at - 100), ".": () => moment.go(at + 100),
    "<": () => moment.go(at - 1000), ">": () => moment.go(at + 1000),
    n: () => jump(moment, marks, 1), N: () => jump(moment, marks, -1),
    Home: () => moment.go(moment.start), End: () => moment.go(moment.end.value),
  };
  const act = event.ctrlKey || event.metaKey || event.altKey ? undefined : keys[event.key];
  if (!act) return;
  event.preventDefault();
  act();
}
