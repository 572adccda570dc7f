/**
 * Builds `dist`: the page with hashed names, the list of its files, and the template of an exported page.
 *
 * The output is committed, and the same source gives the same bytes: a test builds again and compares.
 */

import { createHash } from "node:crypto";
import { mkdir, readFile, rm, writeFile } from "node:fs/promises";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";
import * as esbuild from "esbuild";

const here = path.dirname(fileURLToPath(import.meta.url));
const TYPES = {
  ".html": "text/html; charset=utf-8",
  ".js": "text/javascript; charset=utf-8",
  ".css": "text/css; charset=utf-8",
  ".svg": "image/svg+xml",
};

const common = {
  absWorkingDir: here,
  bundle: true,
  minify: true,
  write: false,
  legalComments: "none",
  target: ["chrome110", "firefox115", "safari16.4"],
  jsx: "automatic",
  jsxImportSource: "preact",
  logLevel: "warning",
};

/** All files of `dist` by their path in it. */
export async function build() {
  const files = new Map();
  const style = await bundle({ entryPoints: ["src/style/main.css"] });
  const styleName = hashed(files, "app", ".css", style[0].text);
  const worker = await bundle({ entryPoints: ["src/replay/worker.ts"], format: "esm" });
  const workerName = hashed(files, "replay", ".js", worker[0].text);
  const iconName = hashed(files, "icon", ".svg", await readFile(path.join(here, "src/icon.svg"), "utf8"));
  const script = await bundle({
    entryPoints: { app: "src/main.tsx" }, format: "esm", splitting: true, outdir: "/assets",
    entryNames: "[name]-[hash]", chunkNames: "part-[hash]",
  });
  for (const file of script) files.set(`assets/${path.basename(file.path)}`, file.text);
  const scriptName = [...files.keys()].find((name) => name.startsWith("assets/app-") && name.endsWith(".js"));
  const parts = { WORKER: `/${workerName}`, ICON: `/${iconName}`, STYLE: `/${styleName}`, SCRIPT: `/${scriptName}` };
  files.set("index.html", filled(await readFile(path.join(here, "src/index.html"), "utf8"), parts));
  files.set("export.html", await exportTemplate(style[0].text));
  files.set("assets.json", manifest(files));
  return files;
}

async function bundle(options) {
  return (await esbuild.build({ ...common, ...options, outdir: options.outdir ?? "/out" })).outputFiles;
}

/** The page as one script: an opened file may not load others. */
async function exportTemplate(style) {
  const [script] = await bundle({ entryPoints: ["src/main.tsx"], format: "iife" });
  // The end tag must not be in what is between the tags.
  const text = script.text.replaceAll("</script", "<\\/script");
  const template = await readFile(path.join(here, "src/export.html"), "utf8");
  return filled(template, {
    SCRIPT: text, STYLE: style, SCRIPT_HASH: integrity(text), STYLE_HASH: integrity(style),
  });
}

function filled(template, parts) {
  return template.replace(/@@(SCRIPT_HASH|STYLE_HASH|SCRIPT|STYLE|WORKER|ICON)@@/g, (_, name) => parts[name]);
}

function integrity(text) {
  return `sha256-${createHash("sha256").update(text).digest("base64")}`;
}

function hashed(files, name, extension, text) {
  const hash = createHash("sha256").update(text).digest("hex").slice(0, 8);
  const file = `assets/${name}-${hash}${extension}`;
  files.set(file, text);
  return file;
}

function manifest(files) {
  const entries = [...files].sort(([one], [other]) => (one < other ? -1 : 1)).map(([name, text]) => ({
    path: name,
    type: TYPES[path.extname(name)],
    bytes: Buffer.byteLength(text),
    gzip_bytes: gzipSync(text, { level: 9 }).length,
    sha256: createHash("sha256").update(text).digest("hex"),
    immutable: name.startsWith("assets/"),
  }));
  return `${JSON.stringify({ v: 1, files: entries }, null, 1)}\n`;
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const files = await build();
  const dist = path.join(here, "dist");
  await rm(dist, { recursive: true, force: true });
  await mkdir(path.join(dist, "assets"), { recursive: true });
  for (const [name, text] of files) await writeFile(path.join(dist, name), text);
  const { files: list } = JSON.parse(files.get("assets.json"));
  for (const file of list) console.log(`${file.path.padEnd(32)} ${file.bytes} B, ${file.gzip_bytes} B gzip`);
  const page = list.filter((file) => file.path !== "export.html").reduce((sum, file) => sum + file.gzip_bytes, 0);
  console.log(`the page: ${(page / 1024).toFixed(1)} KiB gzip`);
}
