/** A replay file as the page uses it: read in a thread of its own, or here in an exported page. */

import { fileUrl, get, headers, isExport } from "../api/client.ts";
import type { Block, BlockPlace, Header } from "./format.ts";
import { ReplayReader } from "./reader.ts";
import { BytesSource } from "./source.ts";
import type { Ask, Told } from "./worker.ts";

export interface Replay {
  readonly header: Header;
  blocks: BlockPlace[];
  complete: boolean;
  block(number: number): Promise<Block>;
  refresh(): Promise<void>;
  close(): void;
}

/** Opens the replay of a run. Fails with a text for people. */
export async function openReplay(run: string): Promise<Replay> {
  const path = `/runs/${run}/replay`;
  if (isExport()) {
    const answer = await get(path);
    if (!answer.ok) throw new Error(answer.problem.message);
    return new HereReplay(await ReplayReader.open(new BytesSource(answer.value)));
  }
  const script = document.documentElement.dataset["replayWorker"] ?? "";
  const thread = new Worker(script, { type: "module", name: "replay" });
  const replay = new ThreadReplay(thread);
  try {
    await replay.open(new URL(fileUrl(path), location.href).href);
  } catch (error) {
    thread.terminate();
    throw error;
  }
  return replay;
}

class HereReplay implements Replay {
  readonly header: Header;
  blocks: BlockPlace[];
  complete = true;
  private readonly reader: ReplayReader;
  constructor(reader: ReplayReader) {
    this.reader = reader;
    this.header = reader.header;
    this.blocks = reader.blocks;
  }
  block(number: number): Promise<Block> {
    return this.reader.block(number);
  }
  refresh(): Promise<void> {
    return Promise.resolve();
  }
  close(): void {
    // Nothing runs.
  }
}

type Waiting = { done: (told: Told) => void; failed: (error: Error) => void };

class ThreadReplay implements Replay {
  header!: Header;
  blocks: BlockPlace[] = [];
  complete = false;
  private readonly thread: Worker;
  private plain: Waiting[] = [];
  private readonly blocksAsked = new Map<number, Waiting[]>();

  constructor(thread: Worker) {
    this.thread = thread;
    thread.onmessage = (event: MessageEvent<Told>) => this.told(event.data);
    thread.onerror = () => this.fail("the replay reader could not be started");
  }

  async open(url: string): Promise<void> {
    const told = await this.ask({ open: { url, headers: headers() } });
    if (!("opened" in told)) throw new Error("the replay reader gave no file");
    this.header = told.opened.header;
    this.blocks = told.opened.blocks;
    this.complete = told.opened.complete;
  }

  async refresh(): Promise<void> {
    const told = await this.ask({ refresh: true });
    if ("refreshed" in told) {
      this.blocks = told.refreshed.blocks;
      this.complete = told.refreshed.complete;
    }
  }

  async block(number: number): Promise<Block> {
    const told = await new Promise<Told>((done, failed) => {
      const others = this.blocksAsked.get(number);
      if (others) {
        others.push({ done, failed });
        return;
      }
      this.blocksAsked.set(number, [{ done, failed }]);
      this.thread.postMessage({ block: number } satisfies Ask);
    });
    if (!("block" in told)) throw new Error("the replay reader gave no block");
    return told.block;
  }

  close(): void {
    this.thread.terminate();
    this.fail("closed");
  }

  private ask(ask: Ask): Promise<Told> {
    return new Promise((done, failed) => {
      this.plain.push({ done, failed });
      this.thread.postMessage(ask);
    });
  }

  private told(told: Told): void {
    const number = "number" in told ? told.number : undefined;
    const whom = number === undefined ? this.plain.splice(0, 1) : (this.blocksAsked.get(number) ?? []);
    if (number !== undefined) this.blocksAsked.delete(number);
    for (const one of whom) {
      if ("failed" in told) one.failed(new Error(told.failed));
      else one.done(told);
    }
  }

  private fail(reason: string): void {
    const all = [...this.plain, ...[...this.blocksAsked.values()].flat()];
    this.plain = [];
    this.blocksAsked.clear();
    for (const one of all) one.failed(new Error(reason));
  }
}
