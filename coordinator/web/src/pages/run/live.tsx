/** Every instance as a cell, as it is at this moment. */

import { useComputed, useSignal } from "@preact/signals";
import { useEffect, useMemo, useRef } from "preact/hooks";
import { isExport } from "../../api/client.ts";
import { want } from "../../api/stream.ts";
import type { Grid, RunEntry } from "../../api/types.ts";
import { clock, count } from "../../format.ts";
import { href, place, setQuery } from "../../route.ts";
import { countStates, gridFull, locate, parseInstance, STATES, workerOf } from "../../state/reduce.ts";
import type { GridState } from "../../state/reduce.ts";
import { announced, eventLog, grid as live } from "../../state/store.ts";
import { cellAt, drawGrid, gridLayout } from "../../ui/cells.ts";
import { palette } from "../../ui/palette.ts";
import { Panel, Shown, StateLegend, Swatch, Table } from "../../ui/parts.tsx";
import { useJson } from "../../ui/query.ts";
import { dark } from "../../ui/theme.ts";
import { useWidth } from "../../ui/width.ts";

export function LiveTab({ entry: { status } }: { entry: RunEntry }) {
  const over = status.verdict !== null;
  useEffect(() => (over ? undefined : want(`grid:${status.run}`)), [status.run, over]);
  const query = useJson<Grid>(`/runs/${status.run}/grid`, status.phase);
  const asked = useMemo(() => (query.data ? gridFull(query.data) : null), [query.data]);
  const told = live.value?.run === status.run ? live.value : null;
  const grid = told && !over ? told : (asked ?? told);
  return (
    <div class="live stack">
      {grid ? <Cells grid={grid} run={status.run} over={over} /> : <Shown query={query} what="the instances">{() => null}</Shown>}
      {grid && <GroupTable grid={grid} />}
      {!over && !isExport() && <Ticker />}
    </div>
  );
}

function Cells({ grid, run, over }: { grid: GridState; run: string; over: boolean }) {
  const [box, width] = useWidth();
  const canvas = useRef<HTMLCanvasElement>(null);
  const only = useSignal<ReadonlySet<number> | null>(null);
  const hovered = useSignal<number | null>(null);
  const layout = useMemo(() => gridLayout(grid.groups, Math.max(200, width - 22)), [grid.groups, width]);
  const selected = parseInstance(grid.groups, place.value.query.get("sel") ?? "");
  const isDark = dark.value;
  const shownOnly = only.value;
  useEffect(() => {
    if (canvas.current) drawGrid(canvas.current, layout, grid.states, palette(), { only: shownOnly, selected });
  }, [layout, grid.states, shownOnly, selected, isDark]);
  const about = (instance: number) => describe(grid, instance);
  const select = (instance: number) => {
    const where = locate(grid.groups, instance);
    if (!where) return;
    setQuery({ sel: `${where.group}:${where.inGroup}` });
    announced.value = about(instance);
  };
  const at = (event: MouseEvent) => cellAt(layout, event.offsetX, event.offsetY);
  const keys = (event: KeyboardEvent) => {
    const steps: Record<string, number> = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: layout.columns, ArrowUp: -layout.columns };
    const step = steps[event.key];
    if (step === undefined) return;
    event.preventDefault();
    const next = selected === null ? 0 : selected + step;
    if (next >= 0 && next < grid.states.length) select(next);
  };
  const toggle = (state: number) => {
    const next = new Set(only.value ?? []);
    if (!next.delete(state)) next.add(state);
    only.value = next.size > 0 ? next : null;
  };
  const shown = hovered.value ?? selected;
  return (
    <Panel title="Instances" end={<>{over ? "at the end" : `at ${clock(grid.atMs)}`} · {count(grid.states.length)} in all</>}>
      <StateLegend counts={countStates(grid.states)} only={only.value} toggle={toggle} />
      <p class="row" style={{ margin: "8px 0", minHeight: "21px" }} aria-hidden={hovered.value !== null}>
        {shown === null ? <span class="muted">Point at a cell, or choose one with the arrow keys.</span> : <><b>{about(shown)}</b>{shown === selected && <Links run={run} grid={grid} instance={shown} />}</>}
      </p>
      <div ref={box} class="stage" tabIndex={0} role="application" aria-label="Instances as cells; arrow keys choose one" onKeyDown={keys}>
        <canvas ref={canvas} onMouseMove={(event) => (hovered.value = at(event))} onMouseLeave={() => (hovered.value = null)}
          onClick={(event) => {
            const instance = at(event);
            if (instance !== null) select(instance);
          }} />
      </div>
    </Panel>
  );
}

function Links({ run, grid, instance }: { run: string; grid: GridState; instance: number }) {
  const where = locate(grid.groups, instance);
  if (!where) return <></>;
  const name = `${where.group}:${where.inGroup}`;
  return <><a href={href(`/runs/${run}/logs?instance=${name}`)}>logs</a><a href={href(`/runs/${run}/artifacts?instance=${name}`)}>files</a><a href={href(`/runs/${run}/network?sel=${name}`)}>in the network</a></>;
}

function describe(grid: GridState, instance: number): string {
  const where = locate(grid.groups, instance);
  const worker = workerOf(grid.placement, instance);
  return `${where ? `${where.group}[${where.inGroup}]` : instance} ${STATES[grid.states[instance] ?? 0] ?? "unknown"}${worker ? ` on ${worker}` : ""}`;
}

const LIVE_STATES = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12];

function GroupTable({ grid }: { grid: GridState }) {
  const firsts: number[] = [];
  grid.groups.reduce((first, [, size]) => (firsts.push(first), first + size), 0);
  const rows = grid.groups.map(([id, size], at) => ({ id, size, counts: countStates(grid.states, firsts[at], (firsts[at] ?? 0) + size) }));
  const used = LIVE_STATES.filter((state) => rows.some((row) => (row.counts[state] ?? 0) > 0));
  return (
    <Panel title="Groups" flush>
      <Table name="Groups by state" rows={rows} keyOf={(row) => row.id} columns={[
        { head: "Group", cell: (row) => row.id },
        { head: "Instances", number: true, cell: (row) => count(row.size) },
        ...used.map((state) => ({
          head: <span class="nowrap"><Swatch state={state} /> {STATES[state]}</span>, number: true,
          cell: (row: (typeof rows)[number]) => (row.counts[state] ? count(row.counts[state]) : <span class="muted">–</span>),
        })),
      ]} />
    </Panel>
  );
}

/** What happened last. */
function Ticker() {
  const newest = useComputed(() => (eventLog.value?.events ?? []).slice(-14).reverse());
  return (
    <Panel title="What happens" flush>
      {newest.value.length === 0 ? <p class="empty">Nothing since this page was opened.</p> : (
        <Table name="Newest events" rows={newest.value.map((event, at) => ({ event, at }))} keyOf={({ event, at }) => `${event.at_ms} ${newest.value.length - at} ${event.text}`} columns={[
          { head: "At", class: "tight", cell: ({ event }) => <code>{clock(event.at_ms)}</code> },
          { head: "Kind", cell: ({ event }) => event.kind.replaceAll("_", " "), class: "nowrap" },
          { head: "Who", cell: ({ event }) => [event.worker, event.group, event.instance].filter((part) => part !== undefined).join(" "), class: "nowrap" },
          { head: "What", cell: ({ event }) => event.text },
        ]} />
      )}
    </Panel>
  );
}
