/** Pictures of every page for people to look at: `SHOTS=directory node test/run.mjs browser shots`. */

import { mkdirSync } from "node:fs";
import path from "node:path";
import { after, test } from "node:test";
import { BIG, LIVE, MAIN } from "../fake/data.ts";
import { closeBrowser, visit } from "./harness.ts";

after(closeBrowser);

const PAGES: Record<string, string> = {
  runs: "/runs", run: `/runs/${MAIN}`, "run-live": `/runs/${LIVE}`, live: `/runs/${LIVE}/live?sel=us-home:7`, network: `/runs/${MAIN}/network?t=60&sel=us-home:12`,
  big: `/runs/${BIG}/network?t=60`, grid: `/runs/${BIG}/live`, links: `/runs/${MAIN}/links?mode=loss`, timeline: `/runs/${MAIN}/timeline`, logs: `/runs/${MAIN}/logs?q=found`, artifacts: `/runs/${MAIN}/artifacts`,
  composition: `/runs/${MAIN}/composition`, compare: "/compare?a=calm-heron&b=brave-swan", trends: "/trends", workers: "/workers", queue: "/queue", missing: "/runs/nope",
};

const directory = process.env["SHOTS"];
const only = process.env["SHOT"];

for (const [scheme, width] of [["light", 1360], ["dark", 1360], ["light", 400], ["dark", 400]] as const) {
  for (const [name, at] of Object.entries(PAGES)) {
    const skip = directory === undefined ? "SHOTS names no directory" : only !== undefined && !only.split(",").includes(name);
    test(`${name} ${scheme} ${width}`, { skip }, () => visit(at, async ({ page }) => {
      mkdirSync(directory!, { recursive: true });
      await page.locator("main h1").waitFor();
      await page.waitForTimeout(1100);
      await page.screenshot({ path: path.join(directory!, `${name}-${scheme}-${width}.png`), fullPage: true });
    }, { colorScheme: scheme, viewport: { width, height: width > 500 ? 860 : 800 } }));
  }
}
