/** Everything about one run: its heading, its tabs, and what each of them shows. */

import { useEffect, useRef } from "preact/hooks";
import { fileUrl, get, isExport, token } from "../../api/client.ts";
import { want } from "../../api/stream.ts";
import type { RunEntry } from "../../api/types.ts";
import { ago, date } from "../../format.ts";
import { href, place } from "../../route.ts";
import { announced, enterRun, info, now, run as known, takeRun } from "../../state/store.ts";
import { Heading, Problem, RunBadge, Loading } from "../../ui/parts.tsx";
import { useJson } from "../../ui/query.ts";
import { Source } from "../runs.tsx";
import { ArtifactsTab, hand } from "./artifacts.tsx";
import { CancelButton } from "./cancel.tsx";
import { CompositionTab } from "./composition.tsx";
import { LinksTab } from "./links.tsx";
import { LiveTab } from "./live.tsx";
import { LogsTab } from "./logs.tsx";
import { NetworkTab } from "./network.tsx";
import { OverviewTab } from "./overview.tsx";
import { TimelineTab } from "./timeline.tsx";

type Tab = (props: { entry: RunEntry }) => preact.JSX.Element;
const TABS: [string, string, Tab][] = [
  ["", "Overview", OverviewTab], ["live", "Live", LiveTab], ["network", "Network", NetworkTab], ["links", "Links", LinksTab],
  ["timeline", "Timeline", TimelineTab], ["logs", "Logs", LogsTab], ["artifacts", "Artifacts", ArtifactsTab],
  ["composition", "Composition", CompositionTab],
];

/** What stays in the address from one tab to the next: the moment and the selection. */
const CARRIED = ["t", "sel"];

export function RunPages({ run, tab }: { run: string; tab: string }) {
  const query = useJson<RunEntry>(`/runs/${run}`);
  useEffect(() => enterRun(run), [run]);
  useEffect(() => {
    if (query.data) takeRun(query.data);
  }, [query.data]);
  const id = query.data?.status.run;
  useEffect(() => (id === undefined ? undefined : want(`run:${id}`)), [id]);
  const live = known.value;
  const entry = live && live.status.run === id ? live : query.data;
  const title = entry?.status.name ?? run;
  useEffect(() => {
    document.title = `${title} – Groundswell`;
    return () => void (document.title = "Groundswell");
  }, [title]);
  if (!entry) {
    return (
      <>
        <Heading title={run} />
        {query.problem ? <Problem problem={query.problem} reload={query.reload} /> : <Loading what="the run" />}
      </>
    );
  }
  const Shown = TABS.find(([name]) => name === tab)?.[2];
  return (
    <>
      <Head entry={entry} />
      <Tabs run={entry.status.run} tab={tab} />
      {Shown ? <Shown entry={entry} /> : <Problem problem={{ status: 404, kind: "", message: `a run has no page \`${tab}\``, help: "" }} />}
    </>
  );
}

function Head({ entry: { status, source } }: { entry: RunEntry }) {
  const over = status.verdict !== null;
  const may = info.value?.scopes.some((scope) => scope === "cancel" || scope === "admin") ?? false;
  return (
    <>
      <Heading title={status.name} end={!isExport() && (
        <>
          {!over && may && <CancelButton run={status} />}
          <a class="button" href={fileUrl(`/runs/${status.run}/export.html`)} download={`${status.name}.html`} onClick={exportWithToken(status)}>Export</a>
        </>
      )}>
        <RunBadge status={status} />
      </Heading>
      <p class="under">
        <span>{status.plan}/{status.case}</span>
        <code>{status.run}</code>
        <Source source={source} />
        {status.user && <span>by {status.user}</span>}
        <span title={date(status.submitted_ms)}>{isExport() ? date(status.submitted_ms) : ago(status.submitted_ms, now.value)}</span>
      </p>
    </>
  );
}

/** A link sends no token: with one, the file is fetched here and handed over. */
function exportWithToken(status: RunEntry["status"]) {
  return (event: MouseEvent) => {
    if (token.value === "") return;
    event.preventDefault();
    announced.value = "the export is being made";
    void get(`/runs/${status.run}/export.html`).then((answer) => {
      if (answer.ok) hand(answer.value, `${status.name}.html`);
      else announced.value = `the export failed: ${answer.problem.message}`;
    });
  };
}

function Tabs({ run, tab }: { run: string; tab: string }) {
  const carried = new URLSearchParams();
  for (const key of CARRIED) {
    const value = place.value.query.get(key);
    if (value) carried.set(key, value);
  }
  const bar = useRef<HTMLElement>(null);
  useEffect(() => {
    const shown = bar.current?.querySelector<HTMLElement>("[aria-current]");
    if (bar.current && shown) bar.current.scrollLeft = shown.offsetLeft - bar.current.offsetLeft - 40;
  }, [tab]);
  const tail = carried.size > 0 ? `?${carried.toString()}` : "";
  return (
    <nav ref={bar} class="tabs" aria-label="Parts of the run">
      {TABS.map(([name, title]) => (
        <a key={name} href={href(`/runs/${run}${name ? `/${name}` : ""}${name ? tail : ""}`)} aria-current={name === tab ? "page" : undefined}>{title}</a>
      ))}
    </nav>
  );
}
