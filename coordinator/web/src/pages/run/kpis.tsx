/** What the run measured, and what was expected of it. */

import type { Judgement, KpiRow, RunStatus } from "../../api/types.ts";
import { amount, count } from "../../format.ts";
import type { Status } from "../../format.ts";
import { href } from "../../route.ts";
import { Badge, Panel, Table } from "../../ui/parts.tsx";

export function KpiCards({ status }: { status: RunStatus }) {
  const { kpis = [], series = 0, left_out: leftOut = 0, expectations = [] } = status.judgement ?? {};
  if (kpis.length === 0) return <></>;
  return (
    <section aria-label="KPIs">
      <div class="row" style={{ marginBottom: "8px" }}>
        <h2>KPIs</h2>
        <span class="muted">{count(series)} series{leftOut > 0 && <span class="warn"> · {count(leftOut)} values found no place</span>}</span>
        <a href={href(`/trends?plan=${encodeURIComponent(status.plan)}&case=${encodeURIComponent(status.case)}`)}>over time</a>
      </div>
      <div class="cards">
        {kpis.map((row) => <Card key={`${row.name} ${row.unit}`} row={row} broken={expectations.some((one) => one.name.startsWith(row.name) && one.state === "broken")} />)}
      </div>
    </section>
  );
}

function Card({ row, broken }: { row: KpiRow; broken: boolean }) {
  const { stats, unit } = row;
  const main = row.count > 1 ? (stats["p95"] !== undefined ? "p95" : "mean") : "max";
  const shown = (stat: string) => (stats[stat] === undefined ? "–" : amount(stats[stat], unit));
  return (
    <div class="card">
      <h3>{row.name}{row.better && <span title={`${row.better} is better`} aria-label={`, ${row.better} is better`}> {row.better === "lower" ? "↓" : "↑"}</span>}</h3>
      <p class="value">{broken && <span class="bad" aria-label="broken expectation" title="an expectation is broken">✗ </span>}{shown(main)} {row.count > 1 && <small>{main}</small>}</p>
      {row.count > 1 && <Spread stats={stats} />}
      <p class="sub">{row.count > 1 ? <>p50 {shown("p50")} · p99 {shown("p99")} · max {shown("max")}</> : "one value"}</p>
      <p class="sub">{row.count > 1 && `${count(row.count)} values`}</p>
    </div>
  );
}

/** From the least to the greatest value, with the middle and the percentiles. */
function Spread({ stats }: { stats: Record<string, number> }) {
  const { min = 0, max = 0, p50 = 0, p95 = 0 } = stats;
  const wide = max - min;
  const x = (value: number) => (wide > 0 ? 2 + ((value - min) / wide) * 196 : 100);
  return (
    <svg viewBox="0 0 200 16" preserveAspectRatio="none" aria-hidden="true">
      <line x1="2" x2="198" y1="8" y2="8" stroke="var(--line)" stroke-width="2" />
      <rect x={x(min)} width={Math.max(1, x(p95) - x(min))} y="5" height="6" fill="var(--state-2)" opacity=".55" />
      <rect x={x(p50) - 1.5} width="3" y="1" height="14" fill="var(--text)" />
    </svg>
  );
}

const STATES: Record<string, Status> = {
  kept: { word: "kept", glyph: "✓", tone: "good" },
  broken: { word: "broken", glyph: "✗", tone: "bad" },
  silent: { word: "silent", glyph: "✗", tone: "bad" },
  off: { word: "off", glyph: "–", tone: "quiet" },
  unmeasured: { word: "unmeasured", glyph: "–", tone: "quiet" },
};
const UNKNOWN: Status = { word: "unknown", glyph: "?", tone: "warn" };

export function Expectations({ judgement }: { judgement: Judgement | undefined }) {
  const expectations = judgement?.expectations ?? [];
  const gates = judgement?.gates ?? [];
  // What is broken first; the order of the plan otherwise.
  const order = [...expectations].sort((one, other) => Number(bad(other.state)) - Number(bad(one.state)));
  return (
    <Panel title="Expected" class="half" flush>
      {order.length === 0 ? <p class="empty">Nothing was expected but success{judgement ? "" : ", or it is not judged yet"}.</p> : (
        <Table name="Expectations" rows={order} keyOf={(one) => one.name} columns={[
          { head: "Expectation", cell: (one) => <><div>{one.name}</div><div class="muted">{one.what}</div></> },
          { head: "Wanted", cell: (one) => one.wanted, class: "nowrap" },
          { head: "Got", cell: (one) => one.got },
          { head: "", cell: (one) => <Badge status={STATES[one.state] ?? UNKNOWN} /> },
        ]} />
      )}
      {gates.length > 0 && (
        <Table name="Gates" caption={`Gates of the machines${judgement?.strict ? ", strict: they also take the word from a run that passed" : ""}`} rows={gates} keyOf={(one) => one.name} columns={[
          { head: "Gate", cell: (one) => one.name },
          { head: "Wanted", cell: (one) => one.wanted, class: "nowrap" },
          { head: "Got", cell: (one) => one.got },
          { head: "", cell: (one) => <Badge status={STATES[one.state] ?? UNKNOWN} /> },
        ]} />
      )}
    </Panel>
  );
}

function bad(state: string): boolean {
  return state === "broken" || state === "silent";
}
