/** What every instance has at a moment, from one block. Pure. */

import type { Block } from "./format.ts";

export class Player {
  /** Channel by channel, each instance's byte at the moment. */
  readonly values: Uint8Array;
  private step = 0;
  private gap = 0;
  private value = 0;
  private at = 0;
  readonly block: Block;

  constructor(block: Block) {
    this.block = block;
    this.values = block.keyframe.slice();
  }

  /** One channel at the moment. */
  channel(number: number): Uint8Array {
    const { instances } = this.block;
    return this.values.subarray(number * instances, (number + 1) * instances);
  }

  /** Goes to a moment of the block, in milliseconds since the submission. True when anything is another. */
  seek(ms: number): boolean {
    const at = ms - this.block.startMs;
    const back = at < this.at;
    if (back) this.rewind();
    this.at = at;
    const before = this.step;
    const { steps } = this.block;
    while (this.step < steps.length && steps[this.step]!.at <= at) this.apply();
    return back || this.step !== before;
  }

  private rewind(): void {
    this.values.set(this.block.keyframe);
    this.step = 0;
    this.gap = 0;
    this.value = 0;
  }

  private apply(): void {
    const { steps, gaps, values } = this.block;
    const { channel, dense, count } = steps[this.step]!;
    const target = this.channel(channel);
    if (dense) {
      for (let i = 0; i < count; i += 1) target[i] = target[i]! + values[this.value + i]!;
    } else {
      let instance = 0;
      for (let i = 0; i < count; i += 1) {
        instance += gaps[this.gap + i]!;
        // One beyond the end is dropped, as a typed array drops it.
        target[instance] = values[this.value + i]!;
      }
      this.gap += count;
    }
    this.value += count;
    this.step += 1;
  }
}
