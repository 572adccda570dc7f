/** The workers, what is free on them, and what their hosts can do. */

import { useEffect } from "preact/hooks";
import { want } from "../api/stream.ts";
import type { Card, WorkerStatus } from "../api/types.ts";
import { ago, bps, bytes, count, figures, millis, span } from "../format.ts";
import type { Status } from "../format.ts";
import { href } from "../route.ts";
import { now, workers } from "../state/store.ts";
import { Badge, Empty, Heading, Panel, Shown, Table } from "../ui/parts.tsx";
import { useJson } from "../ui/query.ts";

const STATES: Record<string, Status> = {
  ready: { word: "ready", glyph: "✓", tone: "good" },
  cordoned: { word: "cordoned", glyph: "‖", tone: "quiet" },
  draining: { word: "draining", glyph: "▾", tone: "busy" },
  drained: { word: "drained", glyph: "‖", tone: "quiet" },
  silent: { word: "silent", glyph: "!", tone: "warn" },
  lost: { word: "lost", glyph: "✗", tone: "bad" },
};

export function WorkersPage() {
  useEffect(() => want("workers"), []);
  const query = useJson<WorkerStatus[]>("/workers");
  const rows = workers.value ?? query.data;
  return (
    <>
      <Heading title="Workers" />
      {rows ? <Workers rows={rows} /> : <Shown query={query} what="the workers">{() => null}</Shown>}
    </>
  );
}

function Workers({ rows }: { rows: WorkerStatus[] }) {
  if (rows.length === 0) return <Empty>No worker is known. <code>worker --config FILE</code> starts one.</Empty>;
  const slots = rows.reduce((sum, worker) => sum + worker.slots, 0);
  const used = rows.reduce((sum, worker) => sum + worker.used, 0);
  return (
    <div class="stack">
      <Panel title="Room" end={`${count(used)} of ${count(slots)} slots used, ${count(slots - used)} free`} flush>
        <Table name="Workers" rows={rows} keyOf={(worker) => worker.worker} columns={[
          { head: "Worker", cell: (worker) => <b>{worker.worker}</b>, class: "nowrap" },
          { head: "State", cell: (worker) => <Badge status={STATES[worker.state] ?? { word: worker.state, glyph: "?", tone: "warn" }} /> },
          { head: "Slots", cell: (worker) => <Room worker={worker} /> },
          { head: "Instances", number: true, cell: (worker) => count(worker.instances) },
          { head: "Runs", cell: (worker) => (worker.runs.length === 0 ? <span class="muted">–</span> : worker.runs.map((run) => <><a href={href(`/runs/${run}`)}><code>{run.slice(0, 8)}</code></a> </>)) },
          { head: "Heard", number: true, cell: (worker) => `${span(worker.heard_ms)} ago` },
          { head: "Runtimes", cell: (worker) => worker.runtimes.join(", ") || "none" },
          { head: "Labels", cell: (worker) => <span class="muted">{Object.entries(worker.labels).map(([key, value]) => `${key}=${value}`).join(" ") || "–"}</span> },
          { head: "Version", cell: (worker) => worker.version },
          { head: "Notes", cell: (worker) => <Notes worker={worker} /> },
        ]} />
      </Panel>
      <Cards rows={rows} />
    </div>
  );
}

function Room({ worker }: { worker: WorkerStatus }) {
  const share = worker.slots === 0 ? 0 : Math.min(1, worker.used / worker.slots);
  return (
    <span class="room">
      <span class="bar thin" aria-hidden="true">{share > 0 && <span style={{ width: `${share * 100}%`, background: "var(--state-3)" }} />}</span>
      <span class="nowrap">{count(worker.used)} / {count(worker.slots)}</span>
    </span>
  );
}

function Notes({ worker }: { worker: WorkerStatus }) {
  const cordons = worker.cordons.map((cordon) => {
    const who = cordon.by === "" ? "by itself" : `by ${cordon.by}`;
    const since = cordon.since_ms > 0 ? `, ${ago(cordon.since_ms, now.value)}` : "";
    const drain = cordon.drain ? `, draining${cordon.drain.deadline ? ` within ${span(millis(cordon.drain.deadline))}` : ""}` : "";
    return `cordoned ${who}${since}${drain}${cordon.reason ? `: ${cordon.reason}` : ""}`;
  });
  const all = [...cordons, ...worker.notes];
  return all.length === 0 ? <span class="muted">–</span> : <>{all.map((note) => <div key={note}>{note}</div>)}</>;
}

type WithCard = WorkerStatus & { card: Card };

/** What `worker bench` has measured: an absent figure is a dash, and why stands below. */
function Cards({ rows }: { rows: WorkerStatus[] }) {
  const measured = rows.filter((worker): worker is WithCard => worker.card !== null);
  if (measured.length === 0) return <Panel title="What the hosts can do"><p class="muted">No host was measured: <code>worker bench</code> does it.</p></Panel>;
  const or = (value: number | null, show: (value: number) => string) => (value === null ? <span class="muted">–</span> : show(value));
  const missing = measured.flatMap((worker) => worker.card.missing.map((why) => `${worker.worker}: ${why}`));
  return (
    <Panel title="What the hosts can do" end="measured by worker bench" flush>
      <Table name="Calibration cards" rows={measured} keyOf={(worker) => worker.worker} columns={[
        { head: "Worker", cell: (worker) => worker.worker },
        { head: "Processor", cell: ({ card }) => <>{card.host.cpu_model} <span class="muted">× {card.host.cores}</span></> },
        { head: "Memory", number: true, cell: ({ card }) => bytes(card.host.memory_bytes) },
        { head: "Kernel", cell: ({ card }) => card.host.kernel },
        { head: "Starts/s", number: true, cell: ({ card }) => Object.entries(card.figures.starts_per_second).map(([kind, rate]) => `${kind} ${figures(rate)}`).join(", ") || "–" },
        { head: "Packets/s and core", number: true, cell: ({ card }) => or(card.figures.packets_per_core_second, count) },
        { head: "One flow", number: true, cell: ({ card }) => or(card.figures.flow_bps, bps) },
        { head: "Wake-up p50, p99", number: true, cell: ({ card }) => <>{or(card.figures.wakeup_p50_us, (us) => span(us / 1000))}, {or(card.figures.wakeup_p99_us, (us) => span(us / 1000))}</> },
        { head: "Disk", number: true, cell: ({ card }) => or(card.figures.disk_write_bytes_per_second, (rate) => `${bytes(rate)}/s`) },
        { head: "fsync p99", number: true, cell: ({ card }) => or(card.figures.fsync_p99_us, (us) => span(us / 1000)) },
        { head: "When", cell: ({ card }) => ago(card.measured_ms, now.value), class: "nowrap" },
      ]} />
      {missing.length > 0 && <p class="muted" style={{ padding: "8px 14px" }}>{missing.join(" · ")}</p>}
    </Panel>
  );
}
