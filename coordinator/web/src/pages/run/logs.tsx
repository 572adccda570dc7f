/** What instances printed, merged by time; live while the run goes on. */

import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import { getJson, isExport, withQuery } from "../../api/client.ts";
import type { Problem as Trouble } from "../../api/client.ts";
import { listen, want } from "../../api/stream.ts";
import type { LogLine, LogNews, Logs, RunEntry, RunStatus } from "../../api/types.ts";
import { clock, count, plural } from "../../format.ts";
import { place, setQuery } from "../../route.ts";
import { parseInstance, locate } from "../../state/reduce.ts";
import { Field } from "../../ui/field.tsx";
import { Empty, Loading, Problem } from "../../ui/parts.tsx";

const LIMIT = 2000;
const KEPT = 20_000;
const LINE = 20;

type Filter = { group: string; instance: string; stream: string; q: string; regex: string };

export function LogsTab({ entry: { status } }: { entry: RunEntry }) {
  const { query } = place.value;
  const filter: Filter = {
    group: query.get("group") ?? "", instance: query.get("instance") ?? "", stream: query.get("stream") ?? "",
    q: query.get("q") ?? "", regex: query.get("regex") ?? "",
  };
  const over = status.phase === "finished" || status.phase === "cleaned";
  return (
    <>
      <Filters status={status} filter={filter} />
      {over || isExport() ? <Stored status={status} filter={filter} /> : <LiveLines status={status} filter={filter} />}
    </>
  );
}

function Filters({ status, filter }: { status: RunStatus; filter: Filter }) {
  const set = (key: string) => (event: { currentTarget: { value: string } }) => setQuery({ [key]: event.currentTarget.value.trim() });
  const isRegex = filter.regex !== "";
  const [wantsRegex, setWantsRegex] = useState(isRegex);
  const text = (value: string) => setQuery(wantsRegex ? { regex: value, q: "" } : { q: value, regex: "" });
  const turn = () => {
    setWantsRegex(!wantsRegex);
    setQuery(wantsRegex ? { q: filter.regex, regex: "" } : { regex: filter.q, q: "" });
  };
  return (
    <form class="filters" role="search" onSubmit={(event) => event.preventDefault()}>
      <label>{wantsRegex ? "Regular expression" : "Text"} <Field mono={wantsRegex} value={wantsRegex ? filter.regex : filter.q} set={text} /></label>
      <label class="inline"><input type="checkbox" checked={wantsRegex} onChange={turn} />regular expression</label>
      <label>Group
        <select value={filter.group} onChange={set("group")}>
          <option value="">any</option>
          {status.groups.map(([id]) => <option key={id} value={id}>{id}</option>)}
        </select>
      </label>
      <label>Instance <Field value={filter.instance} set={(instance) => setQuery({ instance: instance.trim() })} placeholder="17 or group:3" size={14} /></label>
      <label>Stream
        <select value={filter.stream} onChange={set("stream")}>
          <option value="">both</option><option value="stdout">stdout</option><option value="stderr">stderr</option>
        </select>
      </label>
    </form>
  );
}

function Stored({ status, filter }: { status: RunStatus; filter: Filter }) {
  const base = `/runs/${status.run}/logs`;
  const path = isExport() ? base : withQuery(base, { ...filter, limit: LIMIT });
  const [state, setState] = useState<{ path: string; lines: LogLine[] | null; next: string | null; left: number; problem: Trouble | null }>(
    { path: "", lines: null, next: null, left: 0, problem: null },
  );
  const load = async (next: string | null, before: LogLine[]) => {
    const answer = await getJson<Logs>(next === null ? path : `${path}&next=${encodeURIComponent(next)}`);
    setState((old) => (next !== null && old.path !== path) ? old : answer.ok
      ? { path, lines: [...before, ...answer.value.lines], next: answer.value.next, left: answer.value.left_out, problem: null }
      : { path, lines: next === null ? null : before, next, left: 0, problem: answer.problem });
  };
  useEffect(() => void load(null, []), [path]);
  const [times, setTimes] = useState(0);
  useEffect(() => {
    if (times > 0) void load(null, []);
  }, [times]);
  if (state.path !== path) return <Loading what="the logs" />;
  const lines = state.lines && (isExport() ? chosen(state.lines, filter, status) : state.lines);
  return (
    <div class="stack">
      {state.problem && <Problem problem={state.problem} reload={() => setTimes(times + 1)} />}
      {lines && (
        <>
          <p class="row muted">
            <span>{plural(lines.length, "line")}{state.next !== null && ", and more"}</span>
            {state.left > 0 && <span class="warn">{plural(state.left, "file")} not read: choose a group or an instance.</span>}
            {state.next !== null && lines.length < KEPT && <button type="button" onClick={() => void load(state.next, state.lines ?? [])}>Load more</button>}
          </p>
          {lines.length === 0 ? <Empty>No line fits.</Empty> : <Lines lines={lines} mark={filter} follow={false} />}
        </>
      )}
    </div>
  );
}

function LiveLines({ status, filter }: { status: RunStatus; filter: Filter }) {
  const groups = status.groups.map(([id, counts]): [string, number] => [id, counts.want]);
  const instance = filter.instance === "" ? null : parseInstance(groups, filter.instance);
  const where = instance === null ? null : locate(groups, instance);
  const topic = ["logs", status.run, where?.group ?? filter.group, where ? String(where.inGroup) : ""].filter((part) => part !== "").join(":");
  const [lines, setLines] = useState<LogLine[]>([]);
  const [left, setLeft] = useState(0);
  const [follow, setFollow] = useState(true);
  useEffect(() => {
    setLines([]);
    setLeft(0);
    const stop = listen((message) => {
      if (message.event !== "logs") return;
      const news = JSON.parse(message.data) as LogNews;
      if (news.run !== status.run) return;
      setLeft((before) => before + news.left_out);
      setLines((before) => [...before, ...unfolded(news)].slice(-KEPT));
    });
    const give = want(topic);
    return () => {
      stop();
      give();
    };
  }, [topic]);
  const shown = useMemo(() => chosen(lines, filter, status), [lines, filter.q, filter.regex, filter.stream, filter.group]);
  if (filter.instance !== "" && instance === null) return <Problem problem={{ status: 404, kind: "", message: `there is no instance \`${filter.instance}\``, help: "give its number in the run, 17, or group:number" }} />;
  return (
    <div class="stack">
      <p class="row muted">
        <span>Live, since this page was opened: {plural(shown.length, "line")}. All of it is stored at the end of the run.</span>
        {left > 0 && <span class="warn">{count(left)} lines came too fast.</span>}
        <label class="row"><input type="checkbox" checked={follow} onChange={(event) => setFollow(event.currentTarget.checked)} />follow</label>
      </p>
      {shown.length === 0 ? <Empty>Nothing was printed since.</Empty> : <Lines lines={shown} mark={filter} follow={follow} />}
    </div>
  );
}

function unfolded(news: LogNews): LogLine[] {
  return news.lines.flatMap(({ instance, group, in_group, stderr, lines }) =>
    lines.map((line) => ({ at_ms: news.at_ms, instance, group, in_group, stderr, line })));
}

/** Lines that fit a filter, where no server does it. */
function chosen(lines: LogLine[], filter: Filter, status: RunStatus): LogLine[] {
  const groups = status.groups.map(([id, counts]): [string, number] => [id, counts.want]);
  const instance = filter.instance === "" ? null : parseInstance(groups, filter.instance);
  const text = filter.q.toLowerCase();
  const regex = pattern(filter.regex);
  return lines.filter((line) =>
    (filter.group === "" || line.group === filter.group) && (instance === null || line.instance === instance) &&
    (filter.stream === "" || line.stderr === (filter.stream === "stderr")) &&
    (text === "" || line.line.toLowerCase().includes(text)) && (regex === null || regex.test(line.line)));
}

function pattern(text: string): RegExp | null {
  try {
    return text === "" ? null : new RegExp(text, "u");
  } catch {
    return null;
  }
}

/** A list of any length: only the lines that are seen are in the document. */
function Lines({ lines, mark, follow }: { lines: LogLine[]; mark: Filter; follow: boolean }) {
  const box = useRef<HTMLDivElement>(null);
  const [view, setView] = useState({ top: 0, height: 600 });
  const measure = () => box.current && setView({ top: box.current.scrollTop, height: box.current.clientHeight });
  useEffect(() => {
    measure();
    if (follow && box.current) box.current.scrollTop = box.current.scrollHeight;
  }, [lines, follow]);
  const from = Math.max(0, Math.floor(view.top / LINE) - 10);
  const to = Math.min(lines.length, Math.ceil((view.top + view.height) / LINE) + 10);
  // `regex` has no flag for it; the server's syntax is close enough for showing where.
  const regex = pattern(mark.regex) ?? (mark.q === "" ? null : new RegExp(mark.q.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"), "i"));
  return (
    <div ref={box} class="log" tabIndex={0} role="log" aria-live="off" aria-label={`${lines.length} log lines`} onScroll={measure}>
      <div style={{ height: `${lines.length * LINE}px` }} />
      {lines.slice(from, to).map((line, at) => (
        <div key={from + at} class={line.stderr ? "line err" : "line"} style={{ top: `${(from + at) * LINE}px` }}>
          <span class="at">{line.at_ms === null ? "" : clock(line.at_ms)}</span>
          <span class="who" title={`instance ${line.instance}`}>{line.group}[{line.in_group}]</span>
          <span class="text"><Marked text={line.line} regex={regex} /></span>
        </div>
      ))}
    </div>
  );
}

function Marked({ text, regex }: { text: string; regex: RegExp | null }) {
  const found = regex?.exec(text);
  if (!found || found[0] === "") return <>{text}</>;
  const end = found.index + found[0].length;
  return <>{text.slice(0, found.index)}<mark>{found[0]}</mark>{text.slice(end)}</>;
}
