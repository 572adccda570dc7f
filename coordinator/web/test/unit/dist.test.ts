import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import path from "node:path";
import { test } from "node:test";
import { pathToFileURL } from "node:url";
import { gzipSync } from "node:zlib";

const ROOT = process.env["WEB_ROOT"] ?? ".";
const DIST = path.join(ROOT, "dist");

type Listed = { path: string; type: string; bytes: number; gzip_bytes: number; sha256: string; immutable: boolean };
const { files } = JSON.parse(readFileSync(path.join(DIST, "assets.json"), "utf8")) as { files: Listed[] };

test("the committed files are those that the source makes", async () => {
  const { build } = (await import(pathToFileURL(path.join(ROOT, "build.mjs")).href)) as { build: () => Promise<Map<string, string>> };
  const made = await build();
  for (const [name, text] of made) assert.equal(readFileSync(path.join(DIST, name), "utf8"), text, `${name}: run \`npm run build\``);
  const there = readdirSync(DIST, { recursive: true, withFileTypes: true }).filter((one) => one.isFile());
  assert.equal(there.length, made.size);
});

test("the page is light", () => {
  const page = files.filter((file) => file.path !== "export.html");
  const weight = page.reduce((sum, file) => sum + gzipSync(readFileSync(path.join(DIST, file.path)), { level: 9 }).length, 0);
  console.log(`the page weighs ${(weight / 1024).toFixed(1)} KiB gzip`);
  assert.ok(weight <= 120 * 1024);
  assert.equal(page.reduce((sum, file) => sum + file.gzip_bytes, 0), weight);
});

test("nothing is inside the page that its policy forbids, and nothing is asked of others", () => {
  const page = readFileSync(path.join(DIST, "index.html"), "utf8");
  assert.doesNotMatch(page, /<style|style=|\son[a-z]+=|javascript:/);
  assert.doesNotMatch(page, /<script(?![^>]*\ssrc=)/);
  for (const file of files) {
    const text = readFileSync(path.join(DIST, file.path), "utf8");
    const hosts = [...text.matchAll(/https?:\/\/([a-z0-9.-]+)/gi)].map((match) => match[1]).filter((host) => host !== "www.w3.org");
    assert.deepEqual(hosts, [], file.path);
  }
});

test("names under assets say their content, and the template has one place for data", () => {
  for (const file of files) assert.equal(file.immutable, /^assets\/[a-z]+-[0-9A-Za-z]{8}\.(js|css|svg)$/.test(file.path), file.path);
  const template = readFileSync(path.join(DIST, "export.html"), "utf8");
  assert.equal(template.split("@@GROUNDSWELL_DATA@@").length, 2);
});
