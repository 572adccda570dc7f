/** Two sides of runs beside each other. The unit is the run: what one run cannot say is not said. */

import { useEffect, useMemo, useState } from "preact/hooks";
import { getJson, withQuery } from "../api/client.ts";
import type { Comparison, ComparisonRow, KpiFile, RunEntry, RunList } from "../api/types.ts";
import { amount, count, figures, gradeStatus, percent } from "../format.ts";
import type { Status } from "../format.ts";
import { go, place, setQuery } from "../route.ts";
import { ecdf, median, places, valuesOf } from "../state/distribution.ts";
import { css } from "../ui/palette.ts";
import { axis, Chart } from "../ui/chart.tsx";
import { Badge, Empty, Heading, Loading, Panel, Problem, RunBadge, RunLink, Table } from "../ui/parts.tsx";
import { useJson } from "../ui/query.ts";
import { Source } from "./runs.tsx";

type Side = { entries: RunEntry[]; kpis: (KpiFile | null)[] };

export function ComparePage() {
  const { query } = place.value;
  const [a, b] = [query.get("a") ?? "", query.get("b") ?? ""];
  return (
    <>
      <Heading title="Compare" />
      <Choose key={`${a} ${b}`} a={a} b={b} />
      {a !== "" && b !== "" ? <Compared a={a} b={b} /> : <Empty>Name runs for both sides, or choose them in the list of runs. Several runs of a side are separated by commas.</Empty>}
    </>
  );
}

function Choose({ a, b }: { a: string; b: string }) {
  const list = useJson<RunList>("/runs?limit=100");
  return (
    <form class="filters" onSubmit={(event) => {
      event.preventDefault();
      const data = new FormData(event.currentTarget);
      const side = (name: string) => String(data.get(name) ?? "").replace(/\s+/g, "");
      go(withQuery("/compare", { a: side("a"), b: side("b") }));
    }}>
      <label>A, the baseline <input name="a" defaultValue={a} list="known-runs" size={34} placeholder="run, run, …" /></label>
      <label>B <input name="b" defaultValue={b} list="known-runs" size={34} placeholder="run, run, …" /></label>
      <datalist id="known-runs">{list.data?.runs.map(({ status }) => <option key={status.run} value={status.name}>{status.plan}/{status.case}</option>)}</datalist>
      <button type="submit" class="primary">Compare</button>
      {a !== "" && b !== "" && <button type="button" onClick={() => go(withQuery("/compare", { a: b, b: a }))}>Swap</button>}
    </form>
  );
}

function Compared({ a, b }: { a: string; b: string }) {
  const [left, right] = [useSide(a), useSide(b)];
  const judged = useJson<Comparison>(withQuery("/compare", { a, b }));
  const problem = left.problem ?? right.problem;
  if (problem) return <Problem problem={problem} />;
  if (!left.side || !right.side) return <Loading what="both sides" />;
  const sides: [Side, Side] = [left.side, right.side];
  return (
    <div class="stack">
      <div class="grid"><Runs title="A" side={sides[0]} /><Runs title="B" side={sides[1]} /></div>
      <Doubts sides={sides} />
      {judged.data ? <Judged comparison={judged.data} /> : <Beside sides={sides} />}
      <Curves sides={sides} />
    </div>
  );
}

function useSide(selectors: string) {
  const [state, setState] = useState<{ of: string; side: Side | null; problem: import("../api/client.ts").Problem | null }>({ of: "", side: null, problem: null });
  useEffect(() => {
    let left = false;
    const names = selectors.split(",").filter((name) => name !== "");
    void Promise.all(names.map(async (name) => {
      const entry = await getJson<RunEntry>(`/runs/${encodeURIComponent(name)}`);
      if (!entry.ok) return entry;
      const kpis = await getJson<KpiFile>(`/runs/${entry.value.status.run}/kpis`);
      return { ok: true as const, value: { entry: entry.value, kpis: kpis.ok ? kpis.value : null } };
    })).then((answers) => {
      if (left) return;
      const failed = answers.find((answer) => !answer.ok);
      const taken = answers.flatMap((answer) => (answer.ok ? [answer.value] : []));
      setState(failed && !failed.ok
        ? { of: selectors, side: null, problem: failed.problem }
        : { of: selectors, side: { entries: taken.map((one) => one.entry), kpis: taken.map((one) => one.kpis) }, problem: null });
    });
    return () => void (left = true);
  }, [selectors]);
  return state.of === selectors ? state : { side: null, problem: null };
}

function Runs({ title, side }: { title: string; side: Side }) {
  return (
    <Panel title={title} class="half" flush>
      <Table name={`Runs of ${title}`} rows={side.entries} keyOf={({ status }) => status.run} columns={[
        { head: "Run", cell: ({ status }) => <RunLink status={status} />, class: "nowrap" },
        { head: "Verdict", cell: ({ status }) => <RunBadge status={status} /> },
        { head: "Network", cell: ({ status }) => (status.network ? <Badge status={gradeStatus(status.network.grade)} /> : "–") },
        { head: "Source", cell: ({ source }) => <Source source={source} />, class: "nowrap" },
      ]} />
    </Panel>
  );
}

/** Why the sides may not be comparable. */
function Doubts({ sides }: { sides: [Side, Side] }) {
  const all = sides.flatMap((side) => side.entries);
  const doubts: string[] = [];
  const differ = (what: string, of: (entry: RunEntry) => string) => {
    const values = [...new Set(all.map(of))];
    if (values.length > 1) doubts.push(`${what} differ: ${values.join("; ")}`);
  };
  differ("plan and case", ({ status }) => `${status.plan}/${status.case}`);
  differ("groups", ({ status }) => status.groups.map(([id, counts]) => `${id} ${counts.want}`).join(", "));
  differ("workers", ({ status }) => [...status.workers].sort().join(", ") || "none");
  for (const { status } of all) {
    if (status.verdict === null) doubts.push(`${status.name} is not over`);
    if (status.network?.grade === "degraded") doubts.push(`the network of ${status.name} was degraded`);
    if (status.judgement?.gates?.some((gate) => gate.state === "broken")) doubts.push(`the machines of ${status.name} did not keep to its gates`);
  }
  if (doubts.length === 0) return <></>;
  return <Panel title="Why they may not be comparable"><ul style={{ margin: 0, paddingLeft: "18px" }}>{doubts.map((text) => <li key={text}><span class="warn" aria-hidden="true">! </span>{text}</li>)}</ul></Panel>;
}

const VERDICTS: Record<string, Status> = {
  regression: { word: "regression", glyph: "✗", tone: "bad" },
  improvement: { word: "improvement", glyph: "✓", tone: "good" },
  changed: { word: "changed", glyph: "≠", tone: "busy" },
  same: { word: "same", glyph: "=", tone: "quiet" },
  inconclusive: { word: "inconclusive", glyph: "?", tone: "warn" },
};

function Judged({ comparison }: { comparison: Comparison }) {
  return (
    <Panel title="KPIs" end={comparison.design} flush>
      {comparison.left_out.length > 0 && <p class="warn" style={{ padding: "0 14px 8px" }}>Left out: {comparison.left_out.map(([run, why]) => `${run} (${why})`).join(", ")}</p>}
      <Table name="KPIs" rows={comparison.rows} keyOf={(row) => `${row.name} ${row.stat}`} columns={[
        { head: "KPI", cell: (row) => <>{row.name} <span class="muted">{row.stat}</span></> },
        { head: "A median", number: true, cell: (row) => shown(median(row.a), row.unit) },
        { head: "B median", number: true, cell: (row) => shown(median(row.b), row.unit) },
        { head: "Shift", number: true, cell: (row) => <ShiftText row={row} /> },
        { head: "p", number: true, cell: (row) => (row.p === null ? "–" : figures(row.p)) },
        { head: "Cliff δ", number: true, cell: (row) => (row.effect === null ? "–" : figures(row.effect)) },
        { head: "Verdict", cell: (row) => <Badge status={VERDICTS[row.verdict] ?? VERDICTS["inconclusive"]!} title={row.text} /> },
        { head: "Why", cell: (row) => row.text },
      ]} />
    </Panel>
  );
}

function ShiftText({ row }: { row: ComparisonRow }) {
  if (row.shift === null) return <>–</>;
  const signed = (value: number) => `${value > 0 ? "+" : ""}${amount(value, row.unit)}`;
  return <>{signed(row.shift)}{row.low !== null && row.high !== null && <span class="muted"> [{signed(row.low)}, {signed(row.high)}]</span>}</>;
}

function shown(value: number | null | undefined, unit: string): string {
  return value === null || value === undefined ? "–" : amount(value, unit);
}

/** Without a judgement: the medians of the runs of both sides, and nothing about significance. */
function Beside({ sides }: { sides: [Side, Side] }) {
  const rows = kpiRows(sides);
  if (rows.length === 0) return <Empty>No KPI was measured on both sides.</Empty>;
  return (
    <Panel title="KPIs" end="beside each other; this judges nothing" flush>
      <Table name="KPIs" rows={rows} keyOf={(row) => `${row.name} ${row.stat}`} columns={[
        { head: "KPI", cell: (row) => <>{row.name} <span class="muted">{row.stat}</span></> },
        { head: `A${sides[0].entries.length > 1 ? " median" : ""}`, number: true, cell: (row) => shown(row.a, row.unit) },
        { head: `B${sides[1].entries.length > 1 ? " median" : ""}`, number: true, cell: (row) => shown(row.b, row.unit) },
        { head: "B against A", number: true, cell: (row) => <Change row={row} /> },
        { head: "Better is", cell: (row) => row.better ?? "–" },
      ]} />
      <p class="muted" style={{ padding: "8px 14px 0" }}>Runs vary: one against one tells no difference from chance. Five of each side, taken in turns, do.</p>
    </Panel>
  );
}

type BesideRow = { name: string; unit: string; stat: string; better: string | undefined; a: number | null; b: number | null };

function kpiRows(sides: [Side, Side]): BesideRow[] {
  const files = sides.map((side) => side.kpis.filter((file) => file !== null));
  const names = files[0]?.flatMap((file) => file.kpis) ?? [];
  const seen = new Map(names.map((row) => [`${row.name} ${row.unit}`, row]));
  return [...seen.values()].flatMap((row) => {
    const stat = row.count > 1 ? "p95" : "max";
    const values = files.map((side) => side.flatMap((file) => file.kpis.filter((one) => one.name === row.name && one.unit === row.unit).flatMap((one) => one.stats[stat] ?? [])));
    const [a, b] = values.map(median);
    return b === null || b === undefined ? [] : [{ name: row.name, unit: row.unit, stat, better: row.better, a: a ?? null, b }];
  });
}

function Change({ row }: { row: BesideRow }) {
  if (row.a === null || row.b === null || row.a === 0) return <>–</>;
  const share = (row.b - row.a) / Math.abs(row.a);
  const worse = row.better === undefined || share === 0 ? null : (share > 0) === (row.better === "lower");
  return <>{share > 0 ? "+" : ""}{percent(share)} {worse !== null && <span class="muted">{worse ? "worse" : "better"}</span>}</>;
}

/** The distribution of one KPI on both sides. */
function Curves({ sides }: { sides: [Side, Side] }) {
  const rows = useMemo(() => kpiRows(sides), [sides[0], sides[1]]);
  const asked = place.value.query.get("kpi");
  const row = rows.find((one) => one.name === asked) ?? rows[0];
  const data = useMemo(() => {
    if (!row) return null;
    const all = sides.map((side) => side.kpis.flatMap((file) => (file ? [valuesOf(file.series, row.name, row.unit)] : [])));
    const at = places(all.flat(), 400);
    return { at, a: all[0]!, b: all[1]!, aligned: [at, ...all.flat().map((values) => ecdf(values, at))] as [number[], ...number[][]] };
  }, [row?.name, sides[0], sides[1]]);
  if (!row || !data || data.at.length === 0) return <></>;
  return (
    <Panel title="Share of values not greater" end={
      <label class="row">KPI
        <select value={row.name} onChange={(event) => setQuery({ kpi: event.currentTarget.value })}>{rows.map((one) => <option key={one.name} value={one.name}>{one.name}</option>)}</select>
      </label>
    }>
      <Chart data={data.aligned} label={`Distribution of ${row.name}, A and B`} options={(colors) => ({
        scales: { x: { time: false }, y: { range: [0, 1] } },
        axes: [axis(colors, { values: (_, splits) => splits.map((value) => amount(value, row.unit)), space: 90 }), axis(colors, { values: (_, splits) => splits.map((value) => percent(value)) })],
        series: [
          { label: row.name, value: (_, value) => (value === null ? "" : amount(value, row.unit)) },
          ...data.a.map((_, at) => ({ label: data.a.length > 1 ? `A ${at + 1}` : "A", stroke: css(colors.states[3]!), width: 1.6, value: (__: unknown, value: number | null) => (value === null ? "" : percent(value)) })),
          ...data.b.map((_, at) => ({ label: data.b.length > 1 ? `B ${at + 1}` : "B", stroke: css(colors.states[8]!), width: 1.6, dash: [6, 3], value: (__: unknown, value: number | null) => (value === null ? "" : percent(value)) })),
        ],
      })} />
      <p class="muted">A is drawn through, B is dashed. {count(data.at.length)} places.</p>
    </Panel>
  );
}
