/** The thread that reads a replay file, so that unpacking never holds a frame up. */

import type { Block, BlockPlace, Header } from "./format.ts";
import { ReplayReader } from "./reader.ts";
import { UrlSource } from "./source.ts";

export type Ask = { open: { url: string; headers: Record<string, string> } } | { block: number } | { refresh: true };
export type Told =
  | { opened: { header: Header; blocks: BlockPlace[]; complete: boolean } }
  | { refreshed: { blocks: BlockPlace[]; complete: boolean } }
  | { number: number; block: Block }
  | { failed: string; number?: number };

let reader: ReplayReader | null = null;

const tell = (told: Told) => postMessage(told);

async function handle(ask: Ask): Promise<void> {
  if ("open" in ask) {
    reader = await ReplayReader.open(new UrlSource(ask.open.url, ask.open.headers));
    tell({ opened: { header: reader.header, blocks: reader.blocks, complete: reader.complete } });
  } else if (!reader) {
    tell({ failed: "no file is open" });
  } else if ("block" in ask) {
    tell({ number: ask.block, block: await reader.block(ask.block) });
  } else {
    await reader.refresh();
    tell({ refreshed: { blocks: reader.blocks, complete: reader.complete } });
  }
}

onmessage = (event: MessageEvent<Ask>) => {
  const ask = event.data;
  handle(ask).catch((error: unknown) => {
    const failed = error instanceof Error ? error.message : String(error);
    tell("block" in ask ? { failed, number: ask.block } : { failed });
  });
};
