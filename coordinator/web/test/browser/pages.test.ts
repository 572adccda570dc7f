import assert from "node:assert/strict";
import { after, test } from "node:test";
import { LIVE, MAIN } from "../fake/data.ts";
import { closeBrowser, said, says, visit } from "./harness.ts";

after(closeBrowser);

test("runs: all of them, filtered, and new ones as they come", () => visit("/", async ({ page, fake }) => {
  await says(page, "calm-heron");
  assert.equal(await page.locator("tbody tr").count(), 15);
  await page.getByLabel("Verdict").selectOption("failed");
  await page.waitForFunction(() => document.querySelectorAll("tbody tr").length === 1);
  assert.match(page.url(), /verdict=failed/);
  await page.getByRole("button", { name: "Clear" }).click();
  await page.waitForFunction(() => document.querySelectorAll("tbody tr").length === 15);
  await fake.wanted("runs");
  fake.update(LIVE, { verdict: "passed", phase: "finished" });
  await page.locator("tr", { hasText: "swift-lynx" }).getByText("passed").waitFor();
  await page.getByLabel("Compare calm-heron").check();
  await page.getByLabel("Compare vast-whale").check();
  await page.getByRole("button", { name: "Compare", exact: true }).click();
  await says(page, "A, the baseline");
}));

test("run: verdict, accounts that add up, KPIs, expectations, fidelity, first failure, how to do it again", () => visit(`/runs/calm-heron`, async ({ page }) => {
  await says(page, "Do it again");
  const text = await said(page);
  assert.match(text, /FAILED/i);
  assert.match(text, /1.000 = \d+ success \+ 3 failure \+ \d+ killed by the narrative ✓ all accounted for/);
  assert.match(text, /time_to_find ↓/);
  assert.match(text, /✗ broken/);
  assert.match(text, /late p50 21 µs · p99 96 µs · max 1.24 ms/);
  assert.match(text, /peer table poisoned/);
  assert.match(text, /coordinator submit composition.toml --run-ids default --seed 7342911/);
  assert.equal(await page.getByRole("button", { name: "Cancel run" }).count(), 0, "it is over");
}));

test("run: one that goes on is followed and can be canceled", () => visit(`/runs/${LIVE}`, async ({ page, fake }) => {
  await says(page, "instances run");
  await fake.wanted(`run:${LIVE}`);
  fake.update(LIVE, { doing: "12 instances are late" });
  await says(page, "12 instances are late");
  await page.getByRole("button", { name: "Cancel run" }).click();
  await page.getByLabel("Reason").fill("wrong branch");
  await page.getByRole("button", { name: "Cancel the run" }).click();
  await says(page, "canceled: wrong branch");
  assert.ok(fake.asked.includes(`POST /api/v1/runs/${LIVE}/cancel`));
}));

test("live: each instance, its changes, and one chosen by keys", () => visit(`/runs/${LIVE}/live`, async ({ page, fake }) => {
  await says(page, "400 in all");
  const stage = page.getByRole("application");
  await stage.focus();
  await page.keyboard.press("ArrowRight");
  await page.keyboard.press("ArrowRight");
  await says(page, /eu-seed\[1\] \w+ on w-01/);
  assert.match(page.url(), /sel=eu-seed(:|%3A)1/);
  await fake.wanted(`grid:${LIVE}`);
  fake.change(LIVE, [[0, 400, 8]]);
  await page.getByRole("button", { name: "timed out 400" }).waitFor();
  fake.happen(LIVE, [{ at_ms: 95_000, kind: "warning", text: "the disk of w-02 is nearly full", worker: "w-02" }]);
  await says(page, "the disk of w-02 is nearly full");
}));

test("links: the matrix in its modes, and one pair", () => visit(`/runs/${MAIN}/links`, async ({ page }) => {
  await says(page, "Configured delay");
  await page.getByRole("button", { name: "eu-seed to us-seed: 41 ms ± 2.05 ms" }).click();
  await says(page, "port restricted", "main");
  assert.match(await said(page), /eu-seed → us-seed/);
  await page.getByRole("button", { name: "Loss" }).click();
  await page.getByRole("button", { name: /eu-seed to ap-home: 1 % → 1.31 %, outside its interval/ }).waitFor();
}));

test("timeline: lanes, a range chosen by dragging, and a kind", () => visit(`/runs/${MAIN}/timeline`, async ({ page }) => {
  await page.locator(".lanes canvas").waitFor();
  assert.match((await page.locator(".lanes canvas").getAttribute("aria-label")) ?? "", /phases.*strikes.*churners/);
  const box = (await page.locator(".lanes canvas").boundingBox())!;
  await page.mouse.move(box.x + box.width * 0.4, box.y + 40);
  await page.mouse.down();
  await page.mouse.move(box.x + box.width * 0.5, box.y + 40, { steps: 4 });
  await page.mouse.up();
  await page.waitForURL(/range=/);
  await page.getByLabel("Kind").selectOption("schedule");
  await page.waitForFunction(() => document.querySelectorAll("main tbody tr").length < 3);
}));

test("logs: merged, filtered by the server, and never as markup", () => visit(`/runs/${MAIN}/logs`, async ({ page, fake }) => {
  await says(page, "INFO");
  assert.match(await said(page), /2.000 lines, and more/);
  await page.getByRole("button", { name: "Load more" }).click();
  await says(page, /3.000 lines/);
  await page.getByLabel("Text", { exact: true }).fill("alert(1)");
  await page.locator(".log mark").first().waitFor();
  assert.match(await said(page, ".log"), /<script>alert\(1\)<\/script>/);
  await page.getByLabel("regular expression").check();
  await page.getByLabel("Regular expression", { exact: true }).fill("[");
  await says(page, "is not a regular expression");
  assert.ok(fake.asked.some((one) => one.includes("/logs?") && one.includes("q=alert")));
}));

test("logs: live while the run goes on", () => visit(`/runs/${LIVE}/logs?instance=eu-seed:3`, async ({ page, fake }) => {
  await says(page, "Nothing was printed since");
  await fake.wanted(`logs:${LIVE}:eu-seed:3`);
  fake.tell(`logs:${LIVE}:eu-seed:3`, "logs", { run: LIVE, at_ms: 95_000, lines: [{ instance: 3, group: "eu-seed", in_group: 3, stderr: false, lines: ["hello", "there"] }], left_out: 4 });
  await says(page, "there");
  assert.match(await said(page), /2 lines.*4 lines came too fast/);
}));

test("artifacts: listed, filtered, and fetched", () => visit(`/runs/${MAIN}/artifacts`, async ({ page }) => {
  await says(page, /\d+ files, /);
  assert.match(await said(page), /a socket is not stored/);
  await page.getByLabel("Path").fill("results");
  await page.waitForFunction(() => document.querySelectorAll("main tbody tr").length < 400);
  const [download] = await Promise.all([page.waitForEvent("download"), page.getByRole("link", { name: "results.out" }).first().click()]);
  assert.equal(download.suggestedFilename(), "results.out");
}));

test("composition: as it was run", () => visit(`/runs/${MAIN}/composition`, async ({ page }) => {
  await says(page, "total_instances = 1000");
  assert.equal(await page.locator(".composition .comment").first().innerText(), "# Ten groups in three regions, as it was templated.");
}));

test("compare: beside each other where nobody judges, with why they may not be comparable", () => visit("/compare?a=calm-heron&b=brave-swan", async ({ page }) => {
  await says(page, "this judges nothing");
  assert.match(await said(page), /groups differ/);
  await page.locator(".u-wrap canvas").waitFor();
}));

test("compare: judged", () => visit("/compare?a=brave-swan,eager-mole&b=fair-newt,keen-wolf", async ({ page }) => {
  await says(page, "exact Mann-Whitney");
  assert.match(await said(page), /\+40 ms \[\+22 ms, \+58 ms\].*✗ regression/);
}, { prepare: (fake) => (fake.compares = true) }));

test("trends: a KPI over runs, with those that are not fit to tell", () => visit("/trends", async ({ page }) => {
  await page.locator(".u-wrap canvas").waitFor();
  assert.match(await said(page), /time_to_find, p95/);
  await says(page, "! no");
  await page.getByLabel("Branch").selectOption("pr/812");
  await page.waitForFunction(() => document.querySelectorAll("table[aria-label='Runs of the trend'] tbody tr").length === 3);
}));

test("workers: room, cordons, cards, and what could not be measured", () => visit("/workers", async ({ page, fake }) => {
  await says(page, "3 532 of 10 000 slots used".replaceAll(/(\d) (\d)/g, "$1\u202f$2"));
  const text = await said(page);
  assert.match(text, /cordoned by ana, 1 h ago, draining within 30m00s: new disk/);
  assert.match(text, /w-01: fsync p99: the disk was busy/);
  await fake.wanted("workers");
  fake.workers[2]!.state = "lost";
  fake.tell("workers", "workers", fake.workers);
  await says(page, "✗lost".replace("✗", ""));
}));

test("queue: why runs wait, and another priority", () => visit("/queue", async ({ page, fake }) => {
  await says(page, "team storage runs as many runs as it may (3)");
  await page.getByLabel("Priority of bold-finch").selectOption("normal");
  await page.waitForFunction(() => document.querySelector("[role=status].unseen")?.textContent?.includes("bold-finch is normal"));
  assert.equal(fake.queue[1]?.priority, "normal");
}));
