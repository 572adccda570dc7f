/** Reads the data of an exported page: base64 of the gzip of JSON, in the element `#export`. */

import { exportInfo, useAnswers } from "./client.ts";

type Export = { v: number; run: string; made_ms: number; version: string; answers: Record<string, string> };

/** What the template has where data belongs. It is put together here so that the script does not contain it. */
const PLACEHOLDER = ["@@GROUNDSWELL", "DATA@@"].join("_");

/** Whether this page is an exported one; from then on nothing is asked of a server. */
export async function loadExport(): Promise<"none" | "loaded" | "broken"> {
  const text = document.getElementById("export")?.textContent?.trim();
  if (text === undefined) return "none";
  if (text === "" || text === PLACEHOLDER) return "broken";
  try {
    const packed = new Blob([bytes(text)]).stream().pipeThrough(new DecompressionStream("gzip"));
    const content = (await new Response(packed).json()) as Export;
    const answers = Object.entries(content.answers).map(([path, body]) => [path, bytes(body)] as const);
    useAnswers(new Map(answers));
    exportInfo.value = { run: content.run, made_ms: content.made_ms, version: content.version };
    return "loaded";
  } catch {
    return "broken";
  }
}

/** The bytes of a base64 text. */
export function bytes(base64: string): Uint8Array<ArrayBuffer> {
  const text = atob(base64);
  const all = new Uint8Array(text.length);
  for (let at = 0; at < text.length; at += 1) all[at] = text.charCodeAt(at);
  return all;
}
