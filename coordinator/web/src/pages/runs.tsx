/** All runs, newest first, with filters that are in the address. */

import { useEffect, useState } from "preact/hooks";
import { getJson, withQuery } from "../api/client.ts";
import { want } from "../api/stream.ts";
import type { RunEntry, RunList } from "../api/types.ts";
import { ago, amount, count, date, gradeStatus, span, took, totals } from "../format.ts";
import { go, href, place, setQuery } from "../route.ts";
import { now, runs } from "../state/store.ts";
import { newestFirst, runChanged } from "../state/reduce.ts";
import { Accounting } from "../ui/accounting.tsx";
import { Badge, Empty, Heading, Loading, Problem, RunBadge, RunLink, Table } from "../ui/parts.tsx";
import type { Column } from "../ui/parts.tsx";
import { Field } from "../ui/field.tsx";
import { useJson } from "../ui/query.ts";

const FILTERS = ["q", "plan", "case", "user", "branch", "verdict"] as const;
const VERDICTS = ["passed", "failed", "inconclusive", "infra", "timed_out", "canceled", "rejected", "unplaceable"];

export function RunsPage() {
  useEffect(() => want("runs"), []);
  const filter = Object.fromEntries(FILTERS.map((key) => [key, place.value.query.get(key) ?? ""]));
  const filtered = Object.values(filter).some((value) => value !== "");
  const path = withQuery("/runs", { limit: 100, ...filter });
  const query = useJson<RunList>(path);
  const older = useOlder(path, query.data);
  const [chosen, setChosen] = useState<ReadonlySet<string>>(new Set());
  const first = merged(query.data, filtered);
  const all = first && [...first, ...older.entries.filter((entry) => !first.some((one) => one.status.run === entry.status.run))];
  const choose = (run: string, on: boolean) => {
    const next = new Set(chosen);
    if (on) next.add(run);
    else next.delete(run);
    setChosen(next);
  };
  return (
    <>
      <Heading title="Runs" end={<CompareButton chosen={[...chosen]} />} />
      <Filters filter={filter} plans={names(all, (entry) => entry.status.plan)} branches={names(all, (entry) => entry.source.branch)} />
      {query.problem && <Problem problem={query.problem} reload={query.reload} />}
      {all === null ? !query.problem && <Loading what="runs" /> : all.length === 0
        ? <Empty>{filtered ? "No run fits these filters." : "There are no runs yet. `coordinator submit FILE` makes one."}</Empty>
        : <div class="panel"><Table name="Runs" rows={all} columns={columns(chosen, choose)} keyOf={(entry) => entry.status.run} /></div>}
      {older.more && <p class="row" style={{ marginTop: "12px" }}><button type="button" onClick={older.load}>Show older runs</button></p>}
    </>
  );
}

/** The answer, with the changes the stream has told since; without filters its new runs, too. */
function merged(list: RunList | null, filtered: boolean): RunEntry[] | null {
  const live = runs.value;
  if (!list) return !filtered && live ? newestFirst(live) : null;
  let all = new Map(list.runs.map((entry) => [entry.status.run, entry]));
  const oldest = list.runs.at(-1)?.status.run ?? "";
  for (const entry of live?.values() ?? []) {
    const fits = all.has(entry.status.run) || (!filtered && entry.status.run > oldest);
    if (fits) all = new Map(runChanged(all, entry));
  }
  return newestFirst(all);
}

function useOlder(path: string, first: RunList | null) {
  const [state, setState] = useState<{ path: string; entries: RunEntry[]; more: boolean }>({ path, entries: [], more: false });
  const mine = state.path === path && state.entries.length > 0;
  const entries = mine ? state.entries : [];
  const more = mine ? state.more : (first?.more ?? false);
  const last = entries.at(-1) ?? first?.runs.at(-1);
  const load = () => void getJson<RunList>(`${path}&before=${last?.status.run ?? ""}`).then((answer) => {
    if (answer.ok) setState({ path, entries: [...entries, ...answer.value.runs], more: answer.value.more });
  });
  return { entries, more, load };
}

function names(entries: RunEntry[] | null, of: (entry: RunEntry) => string): string[] {
  return [...new Set((entries ?? []).map(of))].filter((name) => name !== "").sort();
}

function Filters({ filter, plans, branches }: { filter: Record<string, string>; plans: string[]; branches: string[] }) {
  const set = (key: string) => (event: { currentTarget: { value: string } }) => setQuery({ [key]: event.currentTarget.value });
  const select = (key: string, label: string, values: string[]) => {
    const all = [...new Set([...values, filter[key] ?? ""])].filter((value) => value !== "");
    return (
      <label>{label}
        <select value={filter[key]} onChange={set(key)}>
          <option value="">any</option>
          {all.map((value) => <option key={value} value={value}>{value.replaceAll("_", " ")}</option>)}
        </select>
      </label>
    );
  };
  return (
    <form class="filters" role="search" onSubmit={(event) => event.preventDefault()}>
      <label>Search <Field value={filter["q"] ?? ""} set={(q) => setQuery({ q })} placeholder="name, id, commit, user" /></label>
      {select("verdict", "Verdict", VERDICTS)}
      {select("plan", "Plan", plans)}
      {select("branch", "Branch", branches)}
      {Object.values(filter).some((value) => value !== "") && <button type="button" onClick={() => go("/runs")}>Clear</button>}
    </form>
  );
}

function CompareButton({ chosen }: { chosen: string[] }) {
  const [a, ...b] = [...chosen].sort();
  const ready = chosen.length >= 2;
  return (
    <>
      <span class="muted" style={{ alignSelf: "center" }}>{chosen.length === 0 ? "choose two to compare" : `${chosen.length} chosen`}</span>
      <button type="button" disabled={!ready} onClick={() => go(`/compare?a=${a}&b=${b.join(",")}`)}>Compare</button>
    </>
  );
}

function columns(chosen: ReadonlySet<string>, choose: (run: string, on: boolean) => void): Column<RunEntry>[] {
  return [
    {
      head: <span class="unseen">Compare</span>,
      cell: ({ status }) => (
        <input type="checkbox" aria-label={`Compare ${status.name}`} checked={chosen.has(status.run)}
          onChange={(event) => choose(status.run, event.currentTarget.checked)} />
      ),
    },
    { head: "Run", cell: ({ status }) => <RunLink status={status} />, class: "nowrap" },
    { head: "Verdict", cell: ({ status }) => <RunBadge status={status} /> },
    { head: "Plan and case", cell: ({ status }) => <>{status.plan}<span class="muted">/{status.case}</span></>, class: "nowrap" },
    { head: "Instances", number: true, cell: ({ status }) => count(totals(status.groups).want) },
    { head: "How they ended", cell: ({ status }) => <Accounting groups={status.groups} brief /> },
    { head: "First KPI", cell: ({ status }) => <FirstKpi entry={status.judgement?.kpis?.[0]} /> },
    { head: "Network", cell: ({ status }) => (status.network ? <Badge status={gradeStatus(status.network.grade)} /> : <span class="muted">–</span>) },
    { head: "Source", cell: ({ source }) => <Source source={source} />, class: "nowrap" },
    { head: "Took", number: true, cell: ({ status }) => span(took(status, now.value) ?? NaN) },
    { head: "Submitted", cell: ({ status }) => <span title={date(status.submitted_ms)}>{ago(status.submitted_ms, now.value)}{status.user && <span class="muted"> by {status.user}</span>}</span>, class: "nowrap" },
  ];
}

function FirstKpi({ entry }: { entry: { name: string; unit: string; stats: Record<string, number>; count: number } | undefined }) {
  if (!entry) return <span class="muted">–</span>;
  const stat = entry.count > 1 ? "p95" : "max";
  const value = entry.stats[stat];
  return <span class="nowrap"><span class="muted">{entry.name} {entry.count > 1 ? stat : ""}</span> {value === undefined ? "–" : amount(value, entry.unit)}</span>;
}

export function Source({ source }: { source: { branch: string; commit: string; dirty: boolean } }) {
  if (source.commit === "" && source.branch === "") return <span class="muted">–</span>;
  return <>{source.branch && <a href={href(`/runs?branch=${encodeURIComponent(source.branch)}`)}>{source.branch}</a>} <code>{source.commit.slice(0, 8)}{source.dirty ? "+" : ""}</code></>;
}
