/** Starts the page. */

import { render } from "preact";
import { useEffect } from "preact/hooks";
import { exportInfo, getJson, isExport, token } from "./api/client.ts";
import { loadExport } from "./api/export.ts";
import { connection, want } from "./api/stream.ts";
import type { Info } from "./api/types.ts";
import { ComparePage } from "./pages/compare.tsx";
import { QueuePage } from "./pages/queue.tsx";
import { RunPages } from "./pages/run/index.tsx";
import { RunsPage } from "./pages/runs.tsx";
import { TrendsPage } from "./pages/trends.tsx";
import { WorkersPage } from "./pages/workers.tsx";
import { followLinks, go, place, startRouting } from "./route.ts";
import { info, startStore } from "./state/store.ts";
import { Empty, Heading, Problem } from "./ui/parts.tsx";
import { Shell } from "./ui/shell.tsx";
import { startTheme } from "./ui/theme.ts";

const PAGES: Record<string, () => preact.JSX.Element> = {
  "/runs": RunsPage, "/queue": QueuePage, "/workers": WorkersPage, "/compare": ComparePage, "/trends": TrendsPage,
};

function App() {
  const { path } = place.value;
  // The number of waiting runs is in the navigation of every page.
  useEffect(() => want("queue"), []);
  const run = /^\/runs\/([^/]+)(?:\/([a-z]+))?\/?$/.exec(path);
  if (run) {
    return <Shell wide={run[2] === "network"}><RunPages key={run[1]} run={run[1]!} tab={run[2] ?? ""} /></Shell>;
  }
  const Page = PAGES[path === "/" ? "/runs" : path];
  return <Shell wide={false}>{Page ? <Page /> : <Nothing />}</Shell>;
}

function Nothing() {
  return <><Heading title="There is no such page" /><Empty>Nothing is at {place.value.path}.</Empty></>;
}

async function start(): Promise<void> {
  startTheme();
  const exported = await loadExport();
  const root = document.getElementById("app");
  if (!root) return;
  root.textContent = "";
  if (exported === "broken") {
    const message = "this file has no run in it, or the data is damaged";
    render(<Problem problem={{ status: 0, kind: "", message, help: "Export the run again." }} />, root);
    return;
  }
  startRouting();
  startStore();
  document.addEventListener("click", followLinks);
  if (isExport() && place.value.path === "/") go(`/runs/${exportInfo.value?.run ?? ""}`, "replace");
  if (!isExport()) followInfo();
  render(<App />, root);
}

/** Who the caller is, asked again with another token and another server. */
function followInfo(): void {
  const ask = async () => {
    const answer = await getJson<Info>("/info");
    if (answer.ok) info.value = answer.value;
  };
  token.subscribe(() => void ask());
  let before = connection.value;
  connection.subscribe((after) => {
    if (before === "gone" && after === "live") void ask();
    before = after;
  });
}

void start();
