/** The moment a replay shows, moved by hand or by time; and what every instance has then. */

import { signal } from "@preact/signals";
import type { Block } from "../replay/format.ts";
import type { Replay } from "../replay/client.ts";
import { Player } from "../replay/player.ts";
import { blockFor } from "../replay/reader.ts";

export const SPEEDS = [0.1, 0.5, 1, 2, 4, 8, 16, 64] as const;

export class Moment {
  /** Milliseconds since the submission. */
  readonly at = signal(0);
  readonly playing = signal(false);
  readonly speed = signal(1);
  /** Counts what has changed, for whoever shows numbers of it. */
  readonly changes = signal(0);
  readonly problem = signal("");
  readonly end = signal(0);
  player: Player | null = null;
  private loading = -1;
  private readonly replay: Replay;

  constructor(replay: Replay) {
    this.replay = replay;
    this.end.value = replay.blocks.at(-1)?.endMs ?? 0;
    this.at.value = this.start;
  }

  get start(): number {
    return this.replay.blocks[0]?.startMs ?? 0;
  }

  get block(): Block | null {
    return this.player?.block ?? null;
  }

  /** Goes to a moment; what it shows follows when its block is there. */
  go(ms: number): void {
    this.at.value = Math.max(this.start, Math.min(this.end.value, ms));
    this.follow();
  }

  /** Time goes on by so many real milliseconds. Time stands still while a block is on its way. */
  tick(ms: number): void {
    if (!this.playing.value || this.loading >= 0) return;
    const next = this.at.value + ms * this.speed.value;
    this.go(next);
    if (next >= this.end.value && this.replay.complete) this.playing.value = false;
  }

  /** Takes in what was written since, and goes along when it was at the end. */
  async refresh(): Promise<void> {
    const atEnd = this.at.value >= this.end.value;
    await this.replay.refresh();
    this.end.value = this.replay.blocks.at(-1)?.endMs ?? this.end.value;
    if (atEnd) this.go(this.end.value);
  }

  private follow(): void {
    const number = blockFor(this.replay.blocks, this.at.value);
    const place = this.replay.blocks[number];
    if (!place) return;
    if (this.player?.block.startMs === place.startMs) {
      if (this.player.seek(this.at.value)) this.changes.value += 1;
      this.ahead(number + 1);
      return;
    }
    if (this.loading === number) return;
    this.loading = number;
    void this.load(number);
  }

  private async load(number: number): Promise<void> {
    try {
      const block = this.ready?.number === number ? this.ready.block : await this.replay.block(number);
      this.player = new Player(block);
      this.problem.value = "";
      this.changes.value += 1;
    } catch (error) {
      this.problem.value = error instanceof Error ? error.message : String(error);
      this.playing.value = false;
    }
    this.loading = -1;
    // It may have been moved on in the meantime.
    if (this.problem.value === "") this.follow();
  }

  private ready: { number: number; block: Block } | null = null;
  private fetching = -1;

  /** Fetches the next block before it is needed. */
  private ahead(number: number): void {
    if (!this.playing.value || this.ready?.number === number || this.fetching === number) return;
    if (!this.replay.blocks[number]) return;
    this.fetching = number;
    void this.replay.block(number).then(
      (block) => (this.ready = { number, block }),
      () => undefined,
    ).finally(() => (this.fetching = -1));
  }
}
