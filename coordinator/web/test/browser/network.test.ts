import assert from "node:assert/strict";
import { after, test } from "node:test";
import type { Page } from "playwright-core";
import { BIG, LIVE, MAIN } from "../fake/data.ts";
import { closeBrowser, said, says, visit } from "./harness.ts";

after(closeBrowser);

/** Lets time play for so many seconds and gives the frames of the last one. */
async function frames(page: Page, seconds: number): Promise<number> {
  await page.getByRole("button", { name: "Play" }).click();
  await page.waitForTimeout(seconds * 1000);
  return Number(await page.locator(".stage canvas").getAttribute("data-frames"));
}

test("network: a moment, an instance and its neighbours, events", () => visit(`/runs/${MAIN}/network?t=60`, async ({ page, fake }) => {
  await says(page, "running");
  assert.equal(await page.getByLabel("Moment", { exact: true }).innerText(), "01:00.000");
  const reads = fake.asked.filter((one) => one.includes("/replay "));
  assert.equal(reads.length, 3, `head, end and one block: ${reads.join()}`);
  await page.getByRole("textbox", { name: "Instance" }).fill("us-home:12");
  await page.getByRole("button", { name: "Find" }).click();
  await says(page, "us-home[12]");
  assert.match(await said(page, ".side"), /it talks to in these 10 s/);
  await page.getByRole("application").focus();
  await page.keyboard.press("n");
  await says(page, "01:02.000");
  await page.keyboard.press(",");
  await says(page, "01:01.900");
  await page.waitForURL(/t=61\.9/);
  await page.getByRole("textbox", { name: "Instance" }).fill("nobody:3");
  await page.getByRole("button", { name: "Find" }).click();
  await says(page, "there is none");
}));

test("network: a file that is being written has what is written, and nothing is asked twice", () => visit(`/runs/${LIVE}/network`, async ({ page }) => {
  await says(page, "and on");
  assert.equal(await page.getByLabel("Moment", { exact: true }).innerText(), "01:30.000");
}));

test("network: a run without a replay says so", () => visit("/runs/brave-swan/network", async ({ page }) => {
  await says(page, /brave-swan has no replay/i);
  assert.equal(await page.getByRole("button", { name: "Try again" }).count(), 1);
}));

for (const kind of ["webgl", "canvas"] as const) {
  test(`network: 10,000 instances play, drawn with ${kind}`, () => visit(`/runs/${BIG}/network?t=20&draw=${kind}`, async ({ page }) => {
    await says(page, "running");
    const plain = await frames(page, 4);
    const painter = await page.locator(".stage canvas").getAttribute("data-painter");
    await page.getByRole("button", { name: "the largest flows" }).click();
    await page.waitForTimeout(3000);
    const lines = Number(await page.locator(".stage canvas").getAttribute("data-frames"));
    console.log(`10,000 instances with ${painter}: ${plain} frames/s, with 2,000 lines ${lines} frames/s`);
    assert.ok(plain >= 5, `${plain}`);
    assert.equal(painter, kind);
  }, { realTime: true, reducedMotion: "no-preference" }));
}
