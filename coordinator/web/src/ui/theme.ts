/** Light or dark: as the system has it, or as chosen. */

import { computed, signal } from "@preact/signals";

export type Theme = "auto" | "light" | "dark";
const KEY = "groundswell-theme";
const system = matchMedia("(prefers-color-scheme: dark)");

export const theme = signal<Theme>(stored());
const systemDark = signal(system.matches);
/** What is shown; canvases draw anew when it changes. */
export const dark = computed(() => theme.value === "dark" || (theme.value === "auto" && systemDark.value));
export const stillness = matchMedia("(prefers-reduced-motion: reduce)");

export function startTheme(): void {
  system.addEventListener("change", () => (systemDark.value = system.matches));
  dark.subscribe((now) => (document.documentElement.dataset["theme"] = now ? "dark" : "light"));
}

export function turnTheme(): void {
  const next: Record<Theme, Theme> = { auto: "light", light: "dark", dark: "auto" };
  theme.value = next[theme.value];
  try {
    localStorage.setItem(KEY, theme.value);
  } catch {
    // It holds until the page is left.
  }
}

function stored(): Theme {
  try {
    const text = localStorage.getItem(KEY);
    return text === "light" || text === "dark" ? text : "auto";
  } catch {
    return "auto";
  }
}
