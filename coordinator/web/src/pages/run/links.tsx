/** What was configured between groups, and what came of it. */

import { useState } from "preact/hooks";
import type { LaneFidelity, LinkShape, Network, RunEntry } from "../../api/types.ts";
import { bps, clock, count, figures, millis, percent, span } from "../../format.ts";
import { place, setQuery } from "../../route.ts";
import { Panel, Shown, Table } from "../../ui/parts.tsx";
import { useJson } from "../../ui/query.ts";

type Cell = { shape: LinkShape; lane: LaneFidelity | null };
type Mode = { title: string; text: (cell: Cell) => string; heat: (cell: Cell) => number; tone: string; said: string };

const MODES: Record<string, Mode> = {
  configured: { title: "Configured delay", text: ({ shape }) => delay(shape), heat: ({ shape }) => millis(shape.latency), tone: "--state-2", said: "one way, access link and path together" },
  achieved: { title: "Achieved delay", text: ({ shape, lane }) => (lane ? span(millis(shape.latency) + lane.late.p50_ns / 1e6) : "–"), heat: ({ shape, lane }) => (lane ? millis(shape.latency) + lane.late.p50_ns / 1e6 : 0), tone: "--state-2", said: "configured delay and the median lateness of the packets of that shape" },
  error: { title: "Delay error p99", text: ({ lane }) => (lane ? `+${span(lane.late.p99_ns / 1e6)}` : "–"), heat: ({ lane }) => lane?.late.p99_ns ?? 0, tone: "--state-8", said: "99 of 100 packets of that shape were not later" },
  loss: { title: "Loss", text: ({ shape, lane }) => lossText(shape, lane), heat: ({ shape, lane }) => lane?.loss?.achieved ?? (shape.loss_pct ?? 0) / 100, tone: "--state-7", said: "configured → counted" },
  packets: { title: "Packets", text: ({ lane }) => (lane ? count(lane.packets) : "–"), heat: ({ lane }) => Math.log1p(lane?.packets ?? 0), tone: "--state-6", said: "of all pairs with that shape together" },
};

export function LinksTab({ entry: { status } }: { entry: RunEntry }) {
  const query = useJson<Network>(`/runs/${status.run}/network`, status.phase);
  return <Shown query={query} what="the links" missing="The links are known when the composition is resolved.">{(network) => <Links network={network} />}</Shown>;
}

function Links({ network }: { network: Network }) {
  const name = place.value.query.get("mode") ?? "configured";
  const mode = MODES[name] ?? MODES["configured"]!;
  const [pair, setPair] = useState<[number, number] | null>(null);
  const size = network.groups.length;
  const cell = (from: number, to: number): Cell => {
    const index = network.links[from * size + to] ?? 0;
    const lane = network.lanes[index] ?? null;
    return { shape: network.shapes[index] ?? {}, lane: lane === null ? null : (network.fidelity?.lanes[lane] ?? null) };
  };
  return (
    <div class="stack">
      <div class="row" role="group" aria-label="What the matrix shows">
        {Object.entries(MODES).map(([key, one]) => <button key={key} type="button" aria-pressed={one === mode} onClick={() => setQuery({ mode: key })}>{one.title}</button>)}
      </div>
      <Panel title={mode.title} end={mode.said}>
        {size > 80 ? <p class="muted">{count(size)} groups are too many for a matrix; the table below has every shape.</p>
          : <Matrix network={network} cell={cell} mode={mode} pair={pair} choose={setPair} />}
        {!network.fidelity && <p class="muted" style={{ marginTop: "8px" }}>What was achieved is known when the run is over.</p>}
      </Panel>
      {pair && <Pair network={network} pair={pair} cell={cell(...pair)} />}
      <Groups network={network} />
      {network.fidelity && <Lanes lanes={network.fidelity.lanes} />}
      <Schedule network={network} />
    </div>
  );
}

function Matrix(props: {
  network: Network; cell: (from: number, to: number) => Cell; mode: Mode;
  pair: [number, number] | null; choose: (pair: [number, number]) => void;
}) {
  const { network: { groups }, cell, mode } = props;
  const most = Math.max(1e-12, ...groups.flatMap((_, from) => groups.map((__, to) => mode.heat(cell(from, to)))));
  return (
    <div class="scroll" tabIndex={0} role="region" aria-label="Matrix">
      <table class="matrix" aria-label={`${mode.title} between groups`}>
        <thead><tr><th scope="col">from ↓ to →</th>{groups.map((group) => <th key={group.id} scope="col">{group.id}</th>)}</tr></thead>
        <tbody>
          {groups.map((from, row) => (
            <tr key={from.id}><th scope="row">{from.id}</th>
              {groups.map((to, column) => {
                const one = cell(row, column);
                const off = one.lane?.loss?.holds === false;
                const chosen = props.pair?.[0] === row && props.pair[1] === column;
                return (
                  <td key={to.id} data-off={off} style={{ "--heat": `var(${mode.tone})`, "--share": `${Math.round((mode.heat(one) / most) * 42)}%` }}>
                    <button type="button" aria-pressed={chosen} aria-label={`${from.id} to ${to.id}: ${mode.text(one)}${off ? ", outside its interval" : ""}`} onClick={() => props.choose([row, column])}>{mode.text(one)}</button>
                  </td>
                );
              })}
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}

function Pair({ network, pair: [from, to], cell: { shape, lane } }: { network: Network; pair: [number, number]; cell: Cell }) {
  const [one, other] = [network.groups[from], network.groups[to]];
  if (!one || !other) return <></>;
  const facts: [string, string][] = [
    ["delay", delay(shape)],
    ["rate", shape.bandwidth_bps ? bps(shape.bandwidth_bps) : "unlimited"],
    ["received at", other.down_bps ? bps(other.down_bps) : "unlimited"],
    ["loss, corruption", `${figures(shape.loss_pct ?? 0)} %, ${figures(shape.corrupt_pct ?? 0)} %`],
    ["reordering, duplication", `${figures(shape.reorder_pct ?? 0)} %, ${figures(shape.duplicate_pct ?? 0)} %`],
    ["NATs", `${natText(one.nat)} → ${natText(other.nat)}`],
    ["counted as", lane ? `${lane.what}: ${count(lane.packets)} packets, late p50 ${span(lane.late.p50_ns / 1e6)}, p99 ${span(lane.late.p99_ns / 1e6)}` : "nothing was counted"],
  ];
  return (
    <Panel title={`${one.id} → ${other.id}`}>
      <dl class="facts">{facts.map(([name, text]) => [<dt key={name}>{name}</dt>, <dd key={`${name} d`}>{text}</dd>])}</dl>
    </Panel>
  );
}

function natText(nat: { kind: string; members: number }[]): string {
  return nat.length === 0 ? "none" : nat.map((layer) => `${layer.kind.replaceAll("_", " ")} (${layer.members} each)`).join(", then ");
}

function Groups({ network }: { network: Network }) {
  return (
    <Panel title="Access links" end={<>{network.subnet} · {network.data_path}{network.encrypt ? " · encrypted" : ""}</>} flush>
      <Table name="Access links" rows={network.groups} keyOf={(group) => group.id} columns={[
        { head: "Group", cell: (group) => group.id },
        { head: "Instances", number: true, cell: (group) => count(group.instances) },
        { head: "Region", cell: (group) => group.region ?? "–" },
        { head: "NATs", cell: (group) => natText(group.nat) },
        { head: "Up", number: true, cell: (group) => (group.up_bps ? bps(group.up_bps) : "unlimited") },
        { head: "Down", number: true, cell: (group) => (group.down_bps ? bps(group.down_bps) : "unlimited") },
      ]} />
    </Panel>
  );
}

function Lanes({ lanes }: { lanes: LaneFidelity[] }) {
  const sorted = [...lanes].sort((one, other) => other.late.p99_ns - one.late.p99_ns);
  const share = (value: LaneFidelity["loss"]) => (value ? <span class={value.holds ? "" : "bad"}>{percent(value.configured)} → {percent(value.achieved)}{value.holds ? "" : " ✗"}</span> : <span class="muted">–</span>);
  return (
    <Panel title="Shapes, configured → achieved" flush>
      <Table name="Shapes" rows={sorted} keyOf={(lane) => lane.what} columns={[
        { head: "Shape", cell: (lane) => lane.what },
        { head: "Packets", number: true, cell: (lane) => count(lane.packets) },
        { head: "Late p50", number: true, cell: (lane) => span(lane.late.p50_ns / 1e6) },
        { head: "p99", number: true, cell: (lane) => span(lane.late.p99_ns / 1e6) },
        { head: "Loss", number: true, cell: (lane) => share(lane.loss) },
        { head: "Duplication", number: true, cell: (lane) => share(lane.duplication) },
        { head: "Corruption", number: true, cell: (lane) => share(lane.corruption) },
        { head: "Rate", number: true, cell: (lane) => (lane.rate ? `${bps(lane.rate.configured_bps)} → ${lane.rate.achieved_bps === null ? "never full" : bps(lane.rate.achieved_bps)}` : "–") },
      ]} />
    </Panel>
  );
}

function Schedule({ network }: { network: Network }) {
  if (network.schedule.length === 0 && network.narrative.length === 0) return <></>;
  return (
    <Panel title="Schedule" flush>
      {network.narrative.length > 0 && <p style={{ padding: "4px 14px 8px" }} class="muted">Instances are struck by {network.narrative.join(", ")}.</p>}
      {network.schedule.length > 0 && <Table name="Schedule" rows={network.schedule} keyOf={(firing) => `${firing.at_ms} ${firing.text}`} columns={[
        { head: "At", class: "tight", cell: (firing) => <code>{clock(firing.at_ms)}</code> },
        { head: "What", cell: (firing) => firing.text },
      ]} />}
    </Panel>
  );
}

function delay(shape: LinkShape): string {
  if (shape.filter && shape.filter !== "accept") return shape.filter;
  const jitter = millis(shape.jitter);
  return `${span(millis(shape.latency))}${jitter > 0 ? ` ± ${span(jitter)}` : ""}`;
}

function lossText(shape: LinkShape, lane: LaneFidelity | null): string {
  const configured = `${figures(shape.loss_pct ?? 0)} %`;
  return lane?.loss ? `${configured} → ${percent(lane.loss.achieved)}` : configured;
}
