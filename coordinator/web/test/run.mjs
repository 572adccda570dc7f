/** Bundles the tests of a directory and runs them with Node's own runner: `run.mjs unit`, `run.mjs browser [name]`. */

import { spawnSync } from "node:child_process";
import { mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";
import * as esbuild from "esbuild";

const here = path.dirname(fileURLToPath(import.meta.url));
const [kind = "unit", only = ""] = process.argv.slice(2);
const out = mkdtempSync(path.join(tmpdir(), "groundswell-web-"));
try {
  const tests = readdirSync(path.join(here, kind)).filter((name) => name.endsWith(".test.ts") && name.includes(only))
    // Pictures to look at judge nothing: they are made when they are asked for.
    .filter((name) => only !== "" || !name.startsWith("shots."));
  await esbuild.build({
    absWorkingDir: path.dirname(here), entryPoints: tests.map((name) => path.join(here, kind, name)), outdir: out,
    bundle: true, platform: "node", format: "esm", target: "node20", packages: "external", sourcemap: "inline",
    outExtension: { ".js": ".mjs" }, external: ["*/build.mjs"], jsx: "automatic", jsxImportSource: "preact", logLevel: "warning",
    define: { "process.env.WEB_ROOT": JSON.stringify(path.dirname(here)) },
  });
  const files = tests.map((name) => path.join(out, name.replace(/\.ts$/, ".mjs")));
  const env = { ...process.env, NODE_PATH: path.join(path.dirname(here), "node_modules") };
  // Bundled tests lie outside of the project: packages are found through a link.
  const { symlinkSync } = await import("node:fs");
  symlinkSync(path.join(path.dirname(here), "node_modules"), path.join(out, "node_modules"));
  const ended = spawnSync(process.execPath, ["--enable-source-maps", "--test", "--test-concurrency=1", ...files], { stdio: "inherit", env });
  process.exitCode = ended.status ?? 1;
} finally {
  rmSync(out, { recursive: true, force: true });
}
