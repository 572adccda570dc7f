/** A KPI over the runs of a plan and case. */

import { useMemo } from "preact/hooks";
import { withQuery } from "../api/client.ts";
import type { RunEntry, RunList } from "../api/types.ts";
import { amount, count, date, runStatus } from "../format.ts";
import { go, place, setQuery } from "../route.ts";
import { median } from "../state/distribution.ts";
import { axis, Chart } from "../ui/chart.tsx";
import { css } from "../ui/palette.ts";
import { Empty, Heading, Panel, RunBadge, RunLink, Shown, Table } from "../ui/parts.tsx";
import { useJson } from "../ui/query.ts";
import { Source } from "./runs.tsx";

const LIMIT = 300;
const STATS = ["p50", "p95", "p99", "mean", "max", "min", "sum"];

type Point = { entry: RunEntry; value: number; fit: boolean };

export function TrendsPage() {
  const { query } = place.value;
  const known = useJson<RunList>(withQuery("/runs", { limit: 500 }));
  const cases = [...new Set(known.data?.runs.map(({ status }) => `${status.plan}/${status.case}`))].sort();
  const [plan, name] = [query.get("plan") ?? "", query.get("case") ?? ""];
  const chosen = plan !== "" ? `${plan}/${name}` : (cases[0] ?? "");
  return (
    <>
      <Heading title="Trends" />
      <Shown query={known} what="the runs">
        {() => cases.length === 0 ? <Empty>There are no runs yet.</Empty> : (
          <>
            <div class="filters">
              <label>Plan and case
                <select value={chosen} onChange={(event) => {
                  const [first = "", ...rest] = event.currentTarget.value.split("/");
                  go(withQuery("/trends", { plan: first, case: rest.join("/") }), "replace");
                }}>{[...new Set([...cases, chosen])].map((one) => <option key={one} value={one}>{one}</option>)}</select>
              </label>
            </div>
            <Trend key={chosen} plan={chosen.split("/")[0] ?? ""} name={chosen.split("/").slice(1).join("/")} />
          </>
        )}
      </Shown>
    </>
  );
}

function Trend({ plan, name }: { plan: string; name: string }) {
  const address = place.value.query;
  const branch = address.get("branch") ?? "";
  const query = useJson<RunList>(withQuery("/runs", { plan, case: name, branch, limit: LIMIT }));
  return <Shown query={query} what="the runs">{(list) => <Chosen list={list} branch={branch} />}</Shown>;
}

function Chosen({ list, branch }: { list: RunList; branch: string }) {
  const address = place.value.query;
  const kpis = useMemo(() => {
    const seen = new Map<string, string>();
    for (const { status } of list.runs) for (const row of status.judgement?.kpis ?? []) seen.set(row.name, row.unit);
    return seen;
  }, [list]);
  const kpi = address.get("kpi") ?? [...kpis.keys()][0] ?? "";
  const stat = address.get("stat") ?? "p95";
  const unit = kpis.get(kpi) ?? "";
  const points = useMemo(() => pointsOf(list.runs, kpi, stat), [list, kpi, stat]);
  const branches = [...new Set([...list.runs.map(({ source }) => source.branch), branch])].filter((one) => one !== "").sort();
  const set = (key: string) => (event: { currentTarget: { value: string } }) => setQuery({ [key]: event.currentTarget.value });
  return (
    <div class="stack">
      <div class="filters" style={{ margin: 0 }}>
        <label>KPI <select value={kpi} onChange={set("kpi")}>{[...kpis.keys()].map((one) => <option key={one} value={one}>{one}</option>)}</select></label>
        <label>Statistic <select value={stat} onChange={set("stat")}>{STATS.map((one) => <option key={one} value={one}>{one}</option>)}</select></label>
        <label>Branch <select value={branch} onChange={set("branch")}><option value="">any</option>{branches.map((one) => <option key={one} value={one}>{one}</option>)}</select></label>
      </div>
      <Strip runs={list.runs} />
      {points.length === 0 ? <Empty>No run of these has such a KPI among its first twelve.</Empty> : <Plot points={points} kpi={kpi} stat={stat} unit={unit} />}
    </div>
  );
}

/** The values of the runs, oldest first; `fit` says whether the machines and the network were. */
function pointsOf(runs: RunEntry[], kpi: string, stat: string): Point[] {
  return runs.flatMap((entry) => {
    const row = entry.status.judgement?.kpis?.find((one) => one.name === kpi);
    const value = row?.stats[stat];
    const gates = entry.status.judgement?.gates ?? [];
    const fit = entry.status.network?.grade !== "degraded" && gates.every((gate) => gate.state !== "broken");
    return value === undefined ? [] : [{ entry, value, fit }];
  }).reverse();
}

/** One square per run, oldest first. */
function Strip({ runs }: { runs: RunEntry[] }) {
  const over = runs.filter(({ status }) => status.verdict !== null).reverse();
  const passed = over.filter(({ status }) => status.verdict === "passed").length;
  return (
    <Panel title="Verdicts" end={`${count(passed)} of ${count(over.length)} passed`}>
      <div style={{ display: "flex", flexWrap: "wrap", gap: "3px" }} aria-hidden="true">
        {over.map(({ status }) => {
          const shown = runStatus(status);
          return <span key={status.run} class={`badge ${shown.tone}`} style={{ padding: "0 3px", minWidth: "20px", justifyContent: "center" }} title={`${status.name}: ${shown.word}`}>{shown.glyph}</span>;
        })}
      </div>
    </Panel>
  );
}

function Plot({ points, kpi, stat, unit }: { points: Point[]; kpi: string; stat: string; unit: string }) {
  const data = useMemo((): [number[], number[], (number | null)[], number[]] => {
    const middle = median(points.filter((point) => point.fit).map((point) => point.value)) ?? median(points.map((point) => point.value)) ?? 0;
    return [points.map((_, at) => at + 1), points.map((point) => point.value), points.map((point) => (point.fit ? null : point.value)), points.map(() => middle)];
  }, [points]);
  const newest = [...points].reverse();
  return (
    <>
      <Panel title={`${kpi}, ${stat}`} end={`${count(points.length)} runs, oldest on the left`}>
        <Chart data={data} label={`${kpi} ${stat} over ${points.length} runs; the numbers are in the table below`} options={(colors) => ({
          scales: { x: { time: false } },
          axes: [
            axis(colors, { values: (_, splits) => splits.map((at) => (Number.isInteger(at) ? (points[at - 1]?.entry.source.commit.slice(0, 7) || points[at - 1]?.entry.status.name.split("-")[0] || "") : "")), space: 80, incrs: [1, 2, 5, 10, 20, 50, 100] }),
            axis(colors, { values: (_, splits) => splits.map((value) => amount(value, unit)), size: 74 }),
          ],
          series: [
            { label: "run", value: (_, at) => (at === null ? "" : (points[at - 1]?.entry.status.name ?? "")) },
            { label: stat, stroke: css(colors.states[3]!), width: 1.4, points: { show: true, size: 6, fill: css(colors.states[3]!) }, value: (_, value) => (value === null ? "" : amount(value, unit)) },
            { label: "not fit to tell", stroke: css(colors.states[8]!), paths: () => null, points: { show: true, size: 10, width: 2, stroke: css(colors.states[8]!) }, value: (_, value) => (value === null ? "" : "yes") },
            { label: "median", stroke: css(colors.quiet), width: 1, dash: [4, 4], points: { show: false }, value: (_, value) => (value === null ? "" : amount(value, unit)) },
          ],
        })} />
      </Panel>
      <Panel title="Runs" flush>
        <Table name="Runs of the trend" rows={newest} keyOf={({ entry }) => entry.status.run} columns={[
          { head: "Run", cell: ({ entry }) => <RunLink status={entry.status} />, class: "nowrap" },
          { head: "Verdict", cell: ({ entry }) => <RunBadge status={entry.status} /> },
          { head: `${kpi} ${stat}`, number: true, cell: ({ value }) => amount(value, unit) },
          { head: "Fit to tell", cell: ({ fit }) => (fit ? <span class="good">✓ yes</span> : <span class="warn">! no</span>) },
          { head: "Source", cell: ({ entry }) => <Source source={entry.source} />, class: "nowrap" },
          { head: "Submitted", cell: ({ entry }) => date(entry.status.submitted_ms), class: "nowrap" },
        ]} />
      </Panel>
    </>
  );
}
