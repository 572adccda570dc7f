/** How true the data network was to its configuration. */

import type { Late, RunStatus } from "../../api/types.ts";
import { count, gradeStatus, millis, percent, span } from "../../format.ts";
import { href } from "../../route.ts";
import { Badge, Panel } from "../../ui/parts.tsx";

const MEANING: Record<string, string> = {
  idle: "no packet was sent",
  exact: "as configured, as far as this kind of machine allows",
  good: "deviations are smaller than what most tests look at",
  unproven: "no deviation was seen, and not everything was measured",
  degraded: "look at the reasons before you trust what was measured",
};

export function Trust({ status }: { status: RunStatus }) {
  const network = status.network;
  if (!network) {
    return <Panel title="Network fidelity" class="half"><p class="muted">{status.verdict ? "It was not measured." : "It is measured when the last instance has ended."}</p></Panel>;
  }
  const facts: [string, preact.ComponentChildren][] = [
    ["packets", count(network.packets)],
    ["late", (network.unseen?.length ?? 0) > 0 ? "not measured" : <Lateness late={network.late} />],
    ["stalls", network.stalls_total === 0 ? "none" : `${count(network.stalls_total)}, the longest listed ${span(Math.max(0, ...network.stalls.map(([, stall]) => millis(stall.length))))}`],
    ["dropped by the rig", network.interface_drops === null ? "not measured" : count(network.no_memory + network.interface_drops)],
  ];
  const probes = network.probes;
  if (probes) {
    facts.push(["probes", <>{count(probes.sent)} between {count(probes.pairs)} pairs{probes.late && <>, <Lateness late={probes.late} /></>}</>]);
    if (probes.loss) facts.push(["probe loss", <>{percent(probes.loss.configured)} → {percent(probes.loss.achieved)} {probes.loss.holds ? <span class="good">✓</span> : <span class="bad">✗ outside</span>}</>]);
  }
  if (network.unmeasured.length > 0) facts.push(["did not report", <span class="bad">{network.unmeasured.join(", ")}</span>]);
  const notes = [...network.reasons, ...(network.unseen ?? [])];
  return (
    <Panel title="Network fidelity" class="half" end={<a href={href(`/runs/${status.run}/links`)}>links</a>}>
      <p class="row"><Badge status={gradeStatus(network.grade)} /><span class="muted">{MEANING[network.grade] ?? ""}</span></p>
      <dl class="facts" style={{ marginTop: "8px" }}>{facts.map(([name, value]) => [<dt key={name}>{name}</dt>, <dd key={`${name} d`}>{value}</dd>])}</dl>
      {notes.length > 0 && <ul style={{ margin: "8px 0 0", paddingLeft: "18px" }}>{notes.map((reason) => <li key={reason}>{reason}</li>)}</ul>}
    </Panel>
  );
}

function Lateness({ late }: { late: Late }) {
  const shown = (nanoseconds: number) => span(nanoseconds / 1e6);
  return <>p50 {shown(late.p50_ns)} · p99 {shown(late.p99_ns)} · max {shown(late.max_ns)}</>;
}
