/** Where the user is: a path and a query, in the address of the page, or behind `#` in an exported file. */

import { computed, signal } from "@preact/signals";
import { isExport } from "./api/client.ts";

export type Place = { path: string; query: URLSearchParams };

export const place = signal<Place>({ path: "/", query: new URLSearchParams() });
/** The run that the path names. */
export const runInPath = computed(() => /^\/runs\/([^/]+)/.exec(place.value.path)?.[1] ?? null);

/** Begins to follow the address. */
export function startRouting(): void {
  place.value = current();
  addEventListener("popstate", () => (place.value = current()));
  addEventListener("hashchange", () => (place.value = current()));
}

/** The address of a place, for links. */
export function href(path: string): string {
  return isExport() ? `#${path}` : path;
}

/** Goes there. */
export function go(path: string, how: "push" | "replace" = "push"): void {
  const moved = path.split("?")[0] !== place.value.path;
  if (how === "push") history.pushState(null, "", href(path));
  else history.replaceState(null, "", href(path));
  place.value = current();
  if (moved) {
    scrollTo(0, 0);
    // A screen reader goes on from the new page's heading and not from a link that is gone.
    requestAnimationFrame(() => document.querySelector<HTMLElement>("main h1")?.focus({ preventScroll: true }));
  }
}

/** Changes parts of the query in place; the empty text takes one out. */
export function setQuery(changes: Record<string, string>): void {
  const query = new URLSearchParams(place.value.query);
  for (const [key, value] of Object.entries(changes)) {
    if (value === "") query.delete(key);
    else query.set(key, value);
  }
  const text = query.toString();
  go(place.value.path + (text === "" ? "" : `?${text}`), "replace");
}

/** Follows plain clicks on links of this page without loading it again. */
export function followLinks(event: MouseEvent): void {
  if (event.defaultPrevented || event.button !== 0 || event.metaKey || event.ctrlKey || event.shiftKey) return;
  const link = (event.target as Element | null)?.closest?.("a[href]");
  const to = link?.getAttribute("href");
  if (!link || !to || link.hasAttribute("download") || link.getAttribute("target")) return;
  const inside = isExport() ? to.startsWith("#/") : to.startsWith("/") && !to.startsWith("/api/");
  if (!inside) return;
  event.preventDefault();
  go(isExport() ? to.slice(1) : to);
}

function current(): Place {
  const text = isExport() ? location.hash.slice(1) || "/" : location.pathname + location.search;
  const [path = "/", query = ""] = text.split("?", 2);
  return { path, query: new URLSearchParams(query) };
}
