/** The run at a glance: how it ended, what it measured, how far to trust it, and how to do it again. */

import type { RunEntry, RunRecord, RunStatus } from "../../api/types.ts";
import { clock, count, runStatus, span, took } from "../../format.ts";
import { href } from "../../route.ts";
import { now } from "../../state/store.ts";
import { Accounting } from "../../ui/accounting.tsx";
import { Panel, Swatch, Table } from "../../ui/parts.tsx";
import { useEvents } from "../../ui/events.ts";
import { useJson } from "../../ui/query.ts";
import { Failures } from "./failures.tsx";
import { Expectations, KpiCards } from "./kpis.tsx";
import { Record } from "./record.tsx";
import { Trust } from "./trust.tsx";

export function OverviewTab({ entry }: { entry: RunEntry }) {
  const { status } = entry;
  const record = useJson<RunRecord>(`/runs/${status.run}/record?brief=1`, status.phase);
  return (
    <div class="stack">
      <Banner status={status} />
      <div class="grid">
        <Panel title="Instances" class="two-thirds" end={<a href={href(`/runs/${status.run}/live`)}>each of them</a>}>
          <Accounting groups={status.groups} />
        </Panel>
        <Phases status={status} />
      </div>
      {status.failures.length > 0 && <Failures status={status} />}
      <KpiCards status={status} />
      <div class="grid">
        <Expectations judgement={status.judgement} />
        <Trust status={status} />
      </div>
      <div class="grid">
        <Groups status={status} />
        <Warnings status={status} />
      </div>
      <Record query={record} entry={entry} />
    </div>
  );
}

function Banner({ status }: { status: RunStatus }) {
  const shown = runStatus(status);
  const time = took(status, now.value);
  const why = status.reason || (status.verdict === null ? status.doing : "");
  return (
    <section class={`banner ${shown.tone}`} aria-label="Verdict">
      <span class="glyph" aria-hidden="true">{shown.glyph}</span>
      <div>
        <p class="word">{shown.word}</p>
        <p class="why">{why || (status.verdict === "passed" ? "every instance succeeded, and every output is stored" : "")}</p>
      </div>
      <p class="times"><b>{time === null ? "–" : span(time)}</b><br />{status.verdict === null ? "so far" : "from start to end"}</p>
    </section>
  );
}

const PHASES = ["phase"];

function Phases({ status }: { status: RunStatus }) {
  // A phase of the coordinator's own has no worker; those of shares have one.
  const query = useEvents(status.run, PHASES, status.verdict !== null);
  const lines = (query.events ?? []).filter((event) => event.worker === undefined);
  const end = status.finished_ms === null ? now.value - status.submitted_ms : status.finished_ms - status.submitted_ms;
  const phases = lines
    .map((event, at) => ({ name: event.text, from: event.at_ms, length: (lines[at + 1]?.at_ms ?? Math.max(end, event.at_ms)) - event.at_ms }))
    .filter((phase) => phase.name !== "finished" && phase.name !== "cleaned");
  return (
    <Panel title="Phases" class="third" end={<a href={href(`/runs/${status.run}/timeline`)}>timeline</a>}>
      {phases.length === 0 ? <p class="muted">{status.phase}: {status.doing || "nothing is told yet"}</p> : (
        <>
          <div class="phases" aria-hidden="true">
            {phases.map((phase, at) => (
              <div key={at} class={phase.name === "running" ? "running" : phase.name === "queued" ? "waits" : ""} style={{ flexGrow: String(Math.max(phase.length, 1)) }} title={phase.name}><div class="strip" /></div>
            ))}
          </div>
          <dl class="facts" style={{ marginTop: "8px" }}>
            {phases.map((phase, at) => [<dt key={at}>{phase.name}</dt>, <dd key={`${at}d`}>{span(phase.length)} <span class="muted">from {clock(phase.from)}</span></dd>])}
          </dl>
        </>
      )}
    </Panel>
  );
}

function Groups({ status }: { status: RunStatus }) {
  return (
    <Panel title="Groups" class="half" flush>
      <Table name="Groups" rows={status.groups} keyOf={([id]) => id} columns={[
        { head: "Group", cell: ([id]) => id },
        { head: "Want", number: true, cell: ([, counts]) => count(counts.want) },
        { head: <><Swatch state={3} /> Running</>, number: true, cell: ([, counts]) => count(counts.running) },
        { head: <><Swatch state={6} /> Success</>, number: true, cell: ([, counts]) => count(counts.success) },
        { head: <><Swatch state={7} /> Failure</>, number: true, cell: ([, counts]) => <Bad value={counts.failure} /> },
        { head: "Other ends", number: true, cell: ([, counts]) => <Bad value={counts.timed_out + counts.canceled + counts.aborted + counts.lost} /> },
        { head: <><Swatch state={12} /> Killed</>, number: true, cell: ([, counts]) => count(counts.killed ?? 0) },
      ]} />
    </Panel>
  );
}

function Bad({ value }: { value: number }) {
  return value > 0 ? <b class="bad">{count(value)}</b> : <>0</>;
}

function Warnings({ status }: { status: RunStatus }) {
  return (
    <Panel title="Before you trust it" class="half">
      {status.warnings.length === 0 ? <p class="muted">No warnings.</p>
        : <ul style={{ margin: 0, paddingLeft: "18px" }}>{status.warnings.map((text) => <li key={text}>{text}</li>)}</ul>}
      {(status.exposed?.length ?? 0) > 0 && (
        <dl class="facts" style={{ marginTop: "10px" }}>
          {status.exposed?.map((port) => [<dt key={`${port.instance}${port.label}`}>{port.label} of instance {port.instance}</dt>, <dd key={`${port.instance}${port.label}d`}><code>{port.address}</code></dd>])}
        </dl>
      )}
    </Panel>
  );
}
