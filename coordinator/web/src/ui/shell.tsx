/** What is around every page: the way to others, and how the connection is. */

import { useComputed } from "@preact/signals";
import type { ComponentChildren } from "preact";
import { exportInfo, isExport } from "../api/client.ts";
import { connection, reconnect, refusedBecause, retryAt } from "../api/stream.ts";
import { date } from "../format.ts";
import { href, place, runInPath } from "../route.ts";
import { announced, info, now, queue, runs } from "../state/store.ts";
import { TokenDialog } from "./parts.tsx";
import { theme, turnTheme } from "./theme.ts";

const PAGES = [["/runs", "Runs"], ["/queue", "Queue"], ["/workers", "Workers"], ["/compare", "Compare"], ["/trends", "Trends"]] as const;

export function Shell({ children, wide }: { children: ComponentChildren; wide: boolean }) {
  return (
    <>
      <a class="skip" href="#content" onClick={skip}>Skip to content</a>
      <header class="top">
        <a class="brand" href={href(isExport() ? `/runs/${exportInfo.value?.run ?? ""}` : "/runs")}><Mark />Groundswell</a>
        {!isExport() && <nav aria-label="Pages">{PAGES.map(([path, title]) => <PageLink key={path} path={path} title={title} />)}</nav>}
        <div class="end">
          {isExport() ? <ExportNote /> : <><Who /><ConnectionState /></>}
          <button type="button" class="plain" onClick={turnTheme} aria-label={`Colours: ${theme.value}. Change`}>
            {theme.value === "dark" ? "Dark" : theme.value === "light" ? "Light" : "Auto"}
          </button>
        </div>
      </header>
      <Notice />
      <main id="content" tabIndex={-1} class={wide ? "wide" : undefined}>{children}</main>
      <div class="unseen" role="status" aria-live="polite">{announced.value}</div>
      <TokenDialog />
    </>
  );
}

function skip(event: MouseEvent): void {
  event.preventDefault();
  document.getElementById("content")?.focus();
}

function Mark() {
  return (
    <svg viewBox="0 0 32 32" aria-hidden="true">
      <rect width="32" height="32" rx="7" fill="#0b5c8f" />
      <path d="M4 13c4-5 8-5 12 0s8 5 12 0M4 21c4-5 8-5 12 0s8 5 12 0" fill="none" stroke="#fff" stroke-width="2.6" stroke-linecap="round" />
    </svg>
  );
}

function PageLink({ path, title }: { path: string; title: string }) {
  const here = useComputed(() => place.value.path === path || (path === "/runs" && runInPath.value !== null));
  const number = path === "/queue" ? queue.value?.length : undefined;
  return (
    <a href={href(path)} aria-current={here.value ? "page" : undefined}>
      {title}{number ? <span class="count">{number}<span class="unseen"> waiting</span></span> : null}
    </a>
  );
}

function Who() {
  const { user, service } = info.value ?? { user: null, service: null };
  return <span class="who">{user ? `${user} · ` : ""}{service ? `${service.name || "coordinator"} ${service.version}` : ""}</span>;
}

const CONNECTION_WORDS = { idle: "", opening: "connecting", live: "live", gone: "not connected", refused: "refused" };

function ConnectionState() {
  const state = connection.value;
  if (state === "idle") return null;
  return <span class={`connection ${state}`} role="status">{CONNECTION_WORDS[state]}</span>;
}

function ExportNote() {
  const about = exportInfo.value;
  return <span>{about ? `exported ${date(about.made_ms)} by Groundswell ${about.version}` : ""}</span>;
}

/** Says that what is shown may be old. */
function Notice() {
  if (isExport()) return null;
  if (connection.value === "refused" && refusedBecause.value !== "") {
    return <div class="notice" role="alert">No live changes: {refusedBecause.value}.</div>;
  }
  if (connection.value !== "gone") return null;
  const seconds = Math.max(0, Math.ceil((retryAt.value - now.value) / 1000));
  return (
    <div class="notice" role="alert">
      <span>The coordinator cannot be reached. What you see is from before{runs.value ? "" : ", if anything"}.</span>
      <span aria-hidden="true">Next attempt {seconds > 0 ? `in ${seconds} s` : "now"}.</span>
      <button type="button" onClick={reconnect}>Try now</button>
    </div>
  );
}
