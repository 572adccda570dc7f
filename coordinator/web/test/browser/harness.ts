/** A browser and a fake coordinator for the tests of the page. */

import assert from "node:assert/strict";
import path from "node:path";
import { chromium } from "playwright-core";
import type { Browser, BrowserContextOptions, Page } from "playwright-core";
import { FakeCoordinator } from "../fake/server.ts";
import { NOW } from "../fake/data.ts";

export const DIST = path.join(process.env["WEB_ROOT"] ?? ".", "dist");
const FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"];

export type Opened = { page: Page; fake: FakeCoordinator; trouble: string[]; close: () => Promise<void> };

let running: Browser | null = null;

async function browser(): Promise<Browser> {
  running ??= await chromium.launch({ executablePath: process.env["CHROMIUM"] ?? "/usr/bin/chromium", headless: true, args: FLAGS });
  return running;
}

export async function closeBrowser(): Promise<void> {
  await running?.close();
  running = null;
}

export type Options = BrowserContextOptions & { prepare?: (fake: FakeCoordinator) => void; realTime?: boolean };

/** Opens a path of the page in a fresh profile. What the browser complains about is collected. */
export async function opened(at: string, options: Options = {}): Promise<Opened> {
  const { prepare, realTime = false, ...more } = options;
  const fake = new FakeCoordinator(DIST);
  prepare?.(fake);
  await fake.start();
  const context = await (await browser()).newContext({ viewport: { width: 1360, height: 860 }, reducedMotion: "reduce", ...more });
  const page = await context.newPage();
  page.setDefaultTimeout(30_000);
  const trouble: string[] = [];
  page.on("console", (message) => {
    // Chromium tells every refused request in its own words; the page has told it in better ones.
    if (message.type() === "error" && !message.text().startsWith("Failed to load resource")) trouble.push(message.text());
  });
  page.on("pageerror", (error) => trouble.push(String(error)));
  // Times are shown against a clock that stands still.
  if (!realTime) {
    await page.clock.install({ time: NOW });
    await page.clock.resume();
  }
  const close = async () => {
    await context.close();
    await fake.stop();
  };
  try {
    await page.goto(fake.url + at);
  } catch (error) {
    await close();
    throw error;
  }
  return { page, fake, trouble, close };
}

/** Opens a page, looks at it, and takes it for an error when the browser complained. */
export async function visit(at: string, look: (opened: Opened) => Promise<void>, options: Options = {}): Promise<void> {
  const one = await opened(at, options);
  try {
    await look(one);
    assert.deepEqual(one.trouble, []);
  } finally {
    await one.close();
  }
}

/** Text of the page as people read it, in one line. */
export async function said(page: Page, selector = "main"): Promise<string> {
  return (await page.locator(selector).first().innerText()).replace(/\s+/g, " ");
}

/** Waits until the page says something. */
export async function says(page: Page, text: string | RegExp, selector = "main"): Promise<void> {
  await page.locator(selector).filter({ hasText: text }).first().waitFor({ timeout: 20_000 });
}
