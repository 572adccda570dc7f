import assert from "node:assert/strict";
import { readFileSync, writeFileSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, test } from "node:test";
import { LIVE, MAIN } from "../fake/data.ts";
import { closeBrowser, opened, said, says, visit } from "./harness.ts";

after(closeBrowser);

test("a token is asked for, a wrong one is refused, and the right one lets in", () => visit("/runs", async ({ page, fake }) => {
  const dialog = page.getByRole("dialog", { name: "This coordinator wants a token" });
  await dialog.waitFor();
  await dialog.getByLabel("Token").fill("gs_aaaaaaaa_wrong");
  await dialog.getByRole("button", { name: "Use it" }).click();
  await says(page, "Nobody knows this token", "dialog");
  await dialog.getByLabel("Token").fill(" gs_k7q2m9xd_right ");
  await dialog.getByRole("button", { name: "Use it" }).click();
  await says(page, "calm-heron");
  await page.locator(".connection.live").waitFor();
  assert.ok(await page.locator(".who").innerText().then((text) => text.startsWith("ana")));
  assert.ok(fake.asked.every((one) => !one.includes("gs_")), "a token is in no address");
  await page.reload();
  await says(page, "calm-heron");
}, { prepare: (fake) => (fake.token = "gs_k7q2m9xd_right") }));

test("who may not cancel is not offered it, and a refusal is told", () => visit(`/runs/${LIVE}`, async ({ page, fake }) => {
  await says(page, "swift-lynx");
  await page.locator(".who", { hasText: "coord-a" }).waitFor();
  assert.equal(await page.getByRole("button", { name: "Cancel run" }).count(), 0);
  void fake;
}, { prepare: (fake) => (fake.scopes = ["read"]) }));

test("a run that is not there, a page that is not there, and no KPIs are told apart", () => visit("/runs/nope", async ({ page }) => {
  await says(page, "No run's id or name starts with `nope`");
  await says(page, "`coordinator ls` lists them");
  await page.goto(`${new URL(page.url()).origin}/nothing/here`);
  await says(page, "There is no such page");
  await page.goto(`${new URL(page.url()).origin}/runs/c8k3`);
  await says(page, /means \d+ runs/);
}));

test("a server that goes away is told, what was known stays, and it is found again", () => visit(`/runs/${LIVE}/live`, async ({ page, fake, trouble }) => {
  await page.locator(".connection.live").waitFor();
  await says(page, "400 in all");
  await fake.stop();
  await says(page, "The coordinator cannot be reached", ".notice");
  await says(page, "400 in all");
  fake.runs.get(LIVE)!.states.fill(11);
  await fake.start();
  await page.getByRole("button", { name: "Try now" }).click().catch(() => undefined);
  await page.locator(".connection.live").waitFor();
  await page.getByRole("button", { name: "lost 400" }).waitFor();
  assert.equal(await page.locator(".notice").count(), 0);
  trouble.length = 0;
}));

test("keys alone: skip link, navigation, and where the focus is", () => visit("/runs", async ({ page }) => {
  await says(page, "calm-heron");
  await page.keyboard.press("Tab");
  assert.equal(await page.evaluate(() => document.activeElement?.textContent), "Skip to content");
  await page.keyboard.press("Enter");
  assert.equal(await page.evaluate(() => document.activeElement?.id), "content");
  await page.getByRole("link", { name: "Workers" }).focus();
  await page.keyboard.press("Enter");
  await says(page, "Room");
  await page.waitForFunction(() => document.activeElement?.textContent === "Workers" && document.activeElement.tagName === "H1");
  assert.deepEqual(await page.locator("header, nav, main").evaluateAll((all) => all.slice(0, 3).map((one) => one.tagName)), ["HEADER", "NAV", "MAIN"]);
}));

test("every control has a name, and every image a text", () => visit(`/runs/${MAIN}`, async ({ page, fake }) => {
  void fake;
  for (const tab of ["", "/live", "/network", "/links", "/timeline", "/logs", "/artifacts", "/composition"]) {
    await page.goto(`${new URL(page.url()).origin}/runs/${MAIN}${tab}`);
    await page.locator("main h1").waitFor();
    await page.waitForTimeout(400);
    const nameless = await page.evaluate(() => {
      const named = (one: Element) => Boolean(one.getAttribute("aria-label") || one.textContent?.trim() || (one as HTMLInputElement).labels?.length || one.getAttribute("title"));
      return [...document.querySelectorAll("button, a[href], input, select, [role=img], [role=application], dialog")].filter((one) => !named(one)).map((one) => one.outerHTML.slice(0, 120));
    });
    assert.deepEqual(nameless, [], tab);
    assert.equal(await page.locator("h1").count(), 1);
  }
}));

test("an exported run opens from disk and asks nobody", async () => {
  const first = await opened("/");
  const directory = mkdtempSync(path.join(tmpdir(), "groundswell-export-"));
  try {
    const answer = await fetch(`${first.fake.url}/api/v1/runs/${MAIN}/export.html`);
    const file = path.join(directory, "calm-heron.html");
    writeFileSync(file, Buffer.from(await answer.arrayBuffer()));
    console.log(`the export of 1,000 instances is ${(readFileSync(file).length / 1024).toFixed(0)} KiB`);
    const { page } = first;
    const requests: string[] = [];
    page.on("request", (request) => {
      if (!request.url().startsWith("file:") && !request.url().startsWith("data:")) requests.push(request.url());
    });
    await page.goto(`file://${file}`);
    await says(page, "Do it again");
    assert.match(await said(page), /all accounted for/);
    for (const [tab, text] of [["Live", "1\u202f000 in all"], ["Network", "At this moment"], ["Links", "Configured delay"], ["Timeline", "strike"], ["Logs", "INFO"], ["Artifacts", "stdout.log"], ["Composition", "total_instances"]] as const) {
      await page.getByRole("navigation", { name: "Parts of the run" }).getByRole("link", { name: tab }).click();
      await says(page, text);
    }
    await page.goto(`file://${file}#/runs/${MAIN}/network?t=60`);
    await says(page, "running");
    assert.deepEqual(requests.filter((url) => !url.startsWith(first.fake.url) && !url.startsWith("blob:")), []);
    assert.deepEqual(first.trouble, []);
  } finally {
    await first.close();
    rmSync(directory, { recursive: true, force: true });
  }
});
