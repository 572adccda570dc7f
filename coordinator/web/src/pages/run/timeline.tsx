/** What happened when, in lanes; a range of time can be chosen. */

import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import type { RunEntry, RunEvent } from "../../api/types.ts";
import { clock, count, span } from "../../format.ts";
import { href, place, setQuery } from "../../route.ts";
import { announced, now } from "../../state/store.ts";
import { binned, lanesOf, ticks } from "../../state/lanes.ts";
import type { Lane } from "../../state/lanes.ts";
import { Empty, Loading, Panel, Problem, Table } from "../../ui/parts.tsx";
import { css, palette } from "../../ui/palette.ts";
import type { Palette } from "../../ui/palette.ts";
import { useEvents } from "../../ui/events.ts";
import { dark } from "../../ui/theme.ts";
import { useWidth } from "../../ui/width.ts";

const HEIGHT = 22;
const AXIS = 20;
const MOST_LISTED = 300;

export function TimelineTab({ entry: { status } }: { entry: RunEntry }) {
  const over = status.verdict !== null;
  const query = useEvents(status.run, null, over);
  const { query: address } = place.value;
  const kind = address.get("kind") ?? "";
  if (query.events === null) return query.problem ? <Problem problem={query.problem} reload={query.reload} /> : <Loading what="the events" />;
  const events = query.events;
  const last = events.reduce((most, event) => Math.max(most, event.at_ms), 0);
  const end = Math.max(1000, last, (status.finished_ms ?? now.peek()) - status.submitted_ms);
  const range = readRange(address.get("range"), end);
  return (
    <div class="stack">
      <Lanes events={events} groups={status.groups.map(([id]) => id)} end={end} range={range} />
      {query.cut && <p class="warn">The run has more events than are shown here; the lists of single instances are under Logs.</p>}
      <List events={events} range={range} end={end} kind={kind} run={status.run} />
    </div>
  );
}

type Range = { from: number; to: number } | null;

function readRange(text: string | null, end: number): Range {
  const match = /^([\d.]+)-([\d.]+)$/.exec(text ?? "");
  if (!match) return null;
  const [from, to] = [Number(match[1]) * 1000, Number(match[2]) * 1000];
  return from < to && from < end ? { from, to } : null;
}

function Lanes({ events, groups, end, range }: { events: RunEvent[]; groups: string[]; end: number; range: Range }) {
  const [box, width] = useWidth();
  const canvas = useRef<HTMLCanvasElement>(null);
  const lanes = useMemo(() => lanesOf(events, groups), [events, groups.join()]);
  const [drag, setDrag] = useState<{ from: number; to: number } | null>(null);
  const label = width < 520 ? 90 : 150;
  const isDark = dark.value;
  const shown = drag ?? range;
  useEffect(() => {
    if (canvas.current && width > 0) draw(canvas.current, lanes, { width, label, end, shown }, palette());
  }, [lanes, width, label, end, shown, isDark]);
  const time = (x: number) => Math.max(0, Math.min(end, ((x - label) / Math.max(1, width - label)) * end));
  const finish = () => {
    if (!drag) return;
    const [from, to] = [Math.min(drag.from, drag.to), Math.max(drag.from, drag.to)];
    setDrag(null);
    const wide = to - from > end / 300;
    setQuery({ range: wide ? `${(from / 1000).toFixed(2)}-${(to / 1000).toFixed(2)}` : "" });
    announced.value = wide ? `${clock(from)} to ${clock(to)} is chosen` : "the whole run is shown";
  };
  return (
    <Panel title="Timeline" end={range ? <>{clock(range.from)} – {clock(range.to)} <button type="button" class="plain" onClick={() => setQuery({ range: "" })}>show all</button></> : `${span(end)} in all; drag to choose a range`}>
      <div ref={box} class="lanes">
        <canvas ref={canvas} role="img" aria-label={`${lanes.length} lanes: ${lanes.map((lane) => `${lane.name} ${lane.marks.length}`).join(", ")}`} style={{ cursor: "crosshair", touchAction: "pan-y" }}
          onPointerDown={(event) => {
            event.currentTarget.setPointerCapture(event.pointerId);
            setDrag({ from: time(event.offsetX), to: time(event.offsetX) });
          }}
          onPointerMove={(event) => drag && setDrag({ ...drag, to: time(event.offsetX) })}
          onPointerUp={finish} onPointerCancel={() => setDrag(null)} />
      </div>
    </Panel>
  );
}

type Frame = { width: number; label: number; end: number; shown: { from: number; to: number } | null };

function draw(canvas: HTMLCanvasElement, lanes: Lane[], frame: Frame, colors: Palette): void {
  const ratio = devicePixelRatio;
  const height = AXIS + lanes.length * HEIGHT + 4;
  canvas.width = frame.width * ratio;
  canvas.height = height * ratio;
  canvas.style.height = `${height}px`;
  const context = canvas.getContext("2d");
  if (!context) return;
  context.scale(ratio, ratio);
  const wide = frame.width - frame.label;
  const x = (ms: number) => frame.label + (ms / frame.end) * wide;
  if (frame.shown) {
    const [from, to] = [Math.min(frame.shown.from, frame.shown.to), Math.max(frame.shown.from, frame.shown.to)];
    context.fillStyle = css(colors.states[2]!);
    context.globalAlpha = 0.18;
    context.fillRect(x(from), 0, Math.max(1, x(to) - x(from)), height);
    context.globalAlpha = 1;
  }
  context.font = "12px system-ui, sans-serif";
  context.textBaseline = "middle";
  context.strokeStyle = css(colors.line);
  context.fillStyle = css(colors.quiet);
  for (const ms of ticks(frame.end, wide < 500 ? 4 : 8)) {
    context.beginPath();
    context.moveTo(Math.round(x(ms)) + 0.5, AXIS - 4);
    context.lineTo(Math.round(x(ms)) + 0.5, height);
    context.stroke();
    context.fillText(clock(ms).replace(/\.000$/, ""), x(ms) + 3, AXIS / 2);
  }
  lanes.forEach((lane, number) => drawLane(context, lane, AXIS + number * HEIGHT, { ...frame, x, wide }, colors));
}

function drawLane(
  context: CanvasRenderingContext2D, lane: Lane, top: number,
  frame: Frame & { x: (ms: number) => number; wide: number }, colors: Palette,
): void {
  const middle = top + HEIGHT / 2;
  context.fillStyle = css(colors.front);
  context.fillText(lane.name, 0, middle, frame.label - 8);
  const paint = css(colors.states[lane.tone === "bad" ? 7 : lane.tone === "warn" ? 4 : lane.tone === "good" ? 6 : 3]!);
  for (const bar of lane.spans) {
    const [from, to] = [frame.x(bar.from), frame.x(Math.min(bar.to ?? frame.end, frame.end))];
    context.fillStyle = paint;
    context.globalAlpha = bar.faint ? 0.25 : 0.5;
    context.fillRect(from, top + 4, Math.max(1, to - from - 1), HEIGHT - 8);
    context.globalAlpha = 1;
    if (to - from > 44) {
      context.fillStyle = css(colors.front);
      context.save();
      context.beginPath();
      context.rect(from, top, to - from - 4, HEIGHT);
      context.clip();
      context.fillText(bar.text, from + 4, middle);
      context.restore();
    }
  }
  context.fillStyle = paint;
  const columns = Math.max(1, Math.floor(frame.wide / 3));
  const heights = binned(lane.marks, frame.end, columns);
  const low = lane.spans.length > 0;
  const most = heights.reduce((high, value) => Math.max(high, value), 1);
  heights.forEach((value, column) => {
    if (value === 0) return;
    const tall = 4 + (Math.log1p(value) / Math.log1p(most)) * (HEIGHT - 8);
    const left = frame.label + (column / columns) * frame.wide;
    if (low) context.fillRect(left, top + HEIGHT - 6, 2, 5);
    else context.fillRect(left, middle - tall / 2, 2, tall);
  });
}

function List({ events, range, end, kind, run }: { events: RunEvent[]; range: Range; end: number; kind: string; run: string }) {
  const kinds = useMemo(() => [...new Set(events.map((event) => event.kind))].sort(), [events]);
  const fit = events.filter((event) => (kind === "" || event.kind === kind) && (!range || (event.at_ms >= range.from && event.at_ms <= Math.min(range.to, end))));
  const rows = fit.slice(0, MOST_LISTED).map((event, at) => ({ event, at }));
  return (
    <Panel title="Events" end={fit.length > rows.length ? `the first ${count(rows.length)} of ${count(fit.length)}; choose a range or a kind to see others` : count(fit.length)} flush>
      <div class="filters" style={{ padding: "6px 14px 0" }}>
        <label>Kind
          <select value={kind} onChange={(event) => setQuery({ kind: event.currentTarget.value })}>
            <option value="">all</option>
            {kinds.map((one) => <option key={one} value={one}>{one.replaceAll("_", " ")}</option>)}
          </select>
        </label>
      </div>
      {rows.length === 0 ? <Empty>No event fits.</Empty> : (
        <Table name="Events" rows={rows} keyOf={({ at }) => String(at)} columns={[
          { head: "At", class: "tight", cell: ({ event }) => <a href={href(`/runs/${run}/network?t=${(event.at_ms / 1000).toFixed(1)}`)} title="the network at this moment"><code>{clock(event.at_ms)}</code></a> },
          { head: "Kind", cell: ({ event }) => event.kind.replaceAll("_", " "), class: "nowrap" },
          { head: "Worker", cell: ({ event }) => event.worker ?? <span class="muted">–</span>, class: "nowrap" },
          { head: "Instance", cell: ({ event }) => (event.instance === undefined ? <span class="muted">–</span> : `${event.group ?? ""} ${event.instance}`), class: "nowrap" },
          { head: "What", cell: ({ event }) => event.text },
        ]} />
      )}
    </Panel>
  );
}
