/** The network at any moment of the run. */

import { useSignal } from "@preact/signals";
import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import type { RunEntry, RunEvent } from "../../api/types.ts";
import { bps, clock, count } from "../../format.ts";
import { edgesOf, neighbours } from "../../graph/edges.ts";
import type { EdgeMode } from "../../graph/edges.ts";
import { layout } from "../../graph/layout.ts";
import { Moment } from "../../graph/moment.ts";
import { describe, Stage } from "../../graph/stage.tsx";
import { openReplay } from "../../replay/client.ts";
import type { Replay } from "../../replay/client.ts";
import { rateOf } from "../../replay/format.ts";
import { href, place, setQuery } from "../../route.ts";
import { countStates, locate, parseInstance } from "../../state/reduce.ts";
import { announced } from "../../state/store.ts";
import { Empty, Loading, Panel, Problem, StateLegend } from "../../ui/parts.tsx";
import { useEvents } from "../../ui/events.ts";
import { Scrubber, timeKeys } from "./scrubber.tsx";

/** How often a file that is being written is looked at. */
const REFRESH_MS = 5000;
/** What stands on the scrubber. */
export const MARKED = ["phase", "schedule", "strike", "warning", "worker_lost", "broken", "failure", "crash", "schedule_failed", "network_failed", "worker_restarted", "attempt"];

export function NetworkTab({ entry: { status } }: { entry: RunEntry }) {
  const [state, setState] = useState<{ replay: Replay | null; problem: string }>({ replay: null, problem: "" });
  const [times, setTimes] = useState(0);
  useEffect(() => {
    let left = false;
    let opened: Replay | null = null;
    setState({ replay: null, problem: "" });
    openReplay(status.run).then((replay) => {
      opened = replay;
      if (left) replay.close();
      else setState({ replay, problem: "" });
    }, (error: unknown) => {
      if (!left) setState({ replay: null, problem: error instanceof Error ? error.message : String(error) });
    });
    return () => {
      left = true;
      opened?.close();
    };
  }, [status.run, times]);
  if (state.problem) return <Problem problem={{ status: 0, kind: "", message: state.problem, help: "" }} reload={() => setTimes(times + 1)} />;
  if (!state.replay) return <Loading what="the replay" />;
  if (state.replay.blocks.length === 0) return <Empty>The replay has just begun; nothing is in it yet.</Empty>;
  return <Network replay={state.replay} run={status.run} over={status.verdict !== null} />;
}

function Network({ replay, run, over }: { replay: Replay; run: string; over: boolean }) {
  const { header } = replay;
  const moment = useMemo(() => new Moment(replay), [replay]);
  const groups = useMemo(() => header.groups.map((group): [string, number] => [group.id, group.instances]), [header]);
  const placed = useMemo(() => layout(header.groups), [header]);
  const only = useSignal<ReadonlySet<number> | null>(null);
  const edges = useSignal<EdgeMode>("selection");
  const marks = useEvents(run, MARKED, over);
  const selected = parseInstance(groups, place.value.query.get("sel") ?? "");
  useStart(moment, replay);
  const select = (instance: number | null) => {
    const where = instance === null ? null : locate(groups, instance);
    setQuery({ sel: where ? `${where.group}:${where.inGroup}` : "" });
    if (instance !== null) announced.value = describe({ groups, channels: header.channels, moment }, instance);
  };
  const events = marks.events ?? [];
  const keys = (event: KeyboardEvent) => timeKeys(moment, events, event);
  return (
    <div class="network">
      <div class="row">
        <Find groups={groups} select={select} selected={place.value.query.get("sel") ?? ""} />
        <div class="row" role="group" aria-label="Lines">
          <span class="muted">Lines</span>
          {(["selection", "largest", "none"] as const).map((mode) => (
            <button key={mode} type="button" aria-pressed={edges.value === mode} onClick={() => (edges.value = mode)}>
              {mode === "selection" ? "of the selection" : mode === "largest" ? "the largest flows" : "none"}
            </button>
          ))}
        </div>
      </div>
      <Scrubber moment={moment} marks={events} complete={replay.complete} />
      {moment.problem.value && <Problem problem={{ status: 0, kind: "", message: moment.problem.value, help: "" }} reload={() => moment.go(moment.at.value)} />}
      <div class="layout">
        <Stage layout={placed} moment={moment} groups={groups} channels={header.channels} edges={edges.value} only={only.value} selected={selected} select={select} keys={keys} />
        <div class="side stack">
          <Now moment={moment} only={only} />
          <Selected moment={moment} groups={groups} channels={header.channels} selected={selected} run={run} select={select} />
          <Around moment={moment} events={events} />
        </div>
      </div>
    </div>
  );
}

/** Begins at the moment in the address, keeps it there, and looks for more while the file grows. */
function useStart(moment: Moment, replay: Replay): void {
  useEffect(() => {
    const asked = Number(place.value.query.get("t") ?? NaN);
    moment.go(Number.isFinite(asked) ? asked * 1000 : replay.complete ? moment.start : moment.end.value);
    const timer = replay.complete ? undefined : setInterval(() => void moment.refresh(), REFRESH_MS);
    return () => clearInterval(timer);
  }, [moment]);
  const pending = useRef<ReturnType<typeof setTimeout>>(undefined);
  useEffect(() => {
    let first = true;
    const stop = moment.at.subscribe((at) => {
      if (first) {
        first = false;
        return;
      }
      clearTimeout(pending.current);
      // Browsers allow few changes of the address in a second.
      pending.current = setTimeout(() => setQuery({ t: (at / 1000).toFixed(1) }), 400);
    });
    return () => {
      stop();
      clearTimeout(pending.current);
    };
  }, [moment]);
}

function Find({ groups, select, selected }: { groups: [string, number][]; select: (instance: number | null) => void; selected: string }) {
  const [missing, setMissing] = useState(false);
  return (
    <form class="row" role="search" onSubmit={(event) => {
      event.preventDefault();
      const text = String(new FormData(event.currentTarget).get("instance") ?? "");
      const found = text.trim() === "" ? null : parseInstance(groups, text);
      setMissing(found === null && text.trim() !== "");
      select(found);
    }}>
      <label class="row">Instance <input key={selected} name="instance" defaultValue={selected} placeholder="group:3 or 17" size={16} aria-invalid={missing} /></label>
      <button type="submit">Find</button>
      {missing && <span class="bad" role="alert">there is none</span>}
    </form>
  );
}

function Now({ moment, only }: { moment: Moment; only: { value: ReadonlySet<number> | null } }) {
  void moment.changes.value;
  const counts = moment.player ? countStates(moment.player.channel(0)) : [];
  const toggle = (state: number) => {
    const next = new Set(only.value ?? []);
    if (!next.delete(state)) next.add(state);
    only.value = next.size > 0 ? next : null;
  };
  return <Panel title="At this moment"><StateLegend counts={counts} only={only.value} toggle={toggle} /></Panel>;
}

function Selected(props: {
  moment: Moment; groups: [string, number][]; channels: string[]; selected: number | null; run: string;
  select: (instance: number) => void;
}) {
  const { moment, groups, selected, run } = props;
  void moment.changes.value;
  const block = moment.block;
  const around = useMemo(() => (block && selected !== null ? neighbours(block, selected) : []), [block, selected]);
  if (selected === null) {
    const flows = block ? (edgesOf(block, "largest", null)?.from.length ?? 0) : 0;
    return <Panel title="Selection"><p class="muted">Choose an instance in the picture, or find one by its name.{flows === 0 ? " This replay has no flows." : ""}</p></Panel>;
  }
  const where = locate(groups, selected);
  const name = where ? `${where.group}:${where.inGroup}` : String(selected);
  return (
    <Panel title={where ? `${where.group}[${where.inGroup}]` : name} end={<a href={href(`/runs/${run}/logs?instance=${name}`)}>logs</a>}>
      <p>{describe(props, selected).split(" · ").slice(1).join(" · ")}</p>
      {around.length > 0 && (
        <>
          <p class="muted" style={{ margin: "8px 0 3px" }}>{count(around.length)} it talks to in these 10 s</p>
          <table aria-label="Neighbours"><thead><tr><th scope="col">Instance</th><th scope="col" class="number">to</th><th scope="col" class="number">from</th></tr></thead>
            <tbody>{around.slice(0, 12).map((one) => {
              const other = locate(groups, one.other);
              return (
                <tr key={one.other}>
                  <td><button type="button" class="plain" onClick={() => props.select(one.other)}>{other ? `${other.group}[${other.inGroup}]` : one.other}</button></td>
                  <td class="number">{one.out ? bps(rateOf(one.out)) : "–"}</td><td class="number">{one.in ? bps(rateOf(one.in)) : "–"}</td>
                </tr>
              );
            })}</tbody>
          </table>
        </>
      )}
    </Panel>
  );
}

/** What happened around the moment. */
function Around({ moment, events }: { moment: Moment; events: RunEvent[] }) {
  const at = moment.at.value;
  const before = events.filter((event) => event.at_ms <= at).slice(-6).reverse();
  return (
    <Panel title="Before it">
      {before.length === 0 ? <p class="muted">Nothing yet.</p> : (
        <ul style={{ listStyle: "none", margin: 0, padding: 0 }}>
          {before.map((event, number) => (
            <li key={`${event.at_ms} ${number}`}><button type="button" class="plain" onClick={() => moment.go(event.at_ms)}><code>{clock(event.at_ms)}</code></button> <span class="muted">{event.kind.replaceAll("_", " ")}</span> {event.text}</li>
          ))}
        </ul>
      )}
    </Panel>
  );
}
