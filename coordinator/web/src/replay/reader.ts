/** Finds its way in a replay file: header and index in two reads, or block by block while it is being written. */

import { blockAt, FOOTER, headerLength, INDEX_ENTRY, parseBlock, parseFooter, parseHeader, parseIndex } from "./format.ts";
import type { Block, BlockPlace, Header } from "./format.ts";
import type { Source } from "./source.ts";

const PIECE = 64 << 10;
/** How much is read at once of a file that is being written. */
const WALK = 1 << 20;
/** Blocks that are kept unpacked. */
const KEPT = 6;

export class ReplayReader {
  readonly header: Header;
  readonly blocks: BlockPlace[] = [];
  /** Whether the file is complete. */
  complete = false;
  private walked: number;
  private readonly cache = new Map<number, Promise<Block>>();
  private readonly source: Source;

  private constructor(source: Source, header: Header, headerEnd: number) {
    this.source = source;
    this.header = header;
    this.walked = headerEnd;
  }

  /** Opens a file with two reads when it is complete. */
  static async open(source: Source): Promise<ReplayReader> {
    const [head, tail] = await Promise.all([source.range(0, PIECE), source.tail(PIECE)]);
    const length = headerLength(head.bytes);
    const whole = head.bytes.length >= length ? head : await source.range(0, length);
    const reader = new ReplayReader(source, parseHeader(whole.bytes), length);
    if (!(await reader.takeIndex(tail.bytes, tail.from))) await reader.walk();
    return reader;
  }

  /** Looks for blocks that were written since. True when there are any. */
  async refresh(): Promise<boolean> {
    if (this.complete) return false;
    const before = this.blocks.length;
    const tail = await this.source.tail(PIECE);
    if (!(await this.takeIndex(tail.bytes, tail.from))) await this.walk();
    return this.blocks.length > before || this.complete;
  }

  /** A block, unpacked. */
  block(number: number): Promise<Block> {
    const known = this.cache.get(number);
    if (known) {
      this.cache.delete(number);
      this.cache.set(number, known);
      return known;
    }
    const loading = this.load(number);
    this.cache.set(number, loading);
    // What failed is tried again the next time.
    loading.catch(() => this.cache.delete(number));
    for (const old of this.cache.keys()) {
      if (this.cache.size <= KEPT) break;
      this.cache.delete(old);
    }
    return loading;
  }

  private async load(number: number): Promise<Block> {
    const place = this.blocks[number];
    if (!place) throw new RangeError(`there is no block ${number}`);
    const { bytes } = await this.source.range(place.offset, place.offset + place.length);
    return parseBlock(bytes, this.header);
  }

  private async takeIndex(tail: Uint8Array, from: number): Promise<boolean> {
    const footer = parseFooter(tail);
    if (!footer) return false;
    const length = footer.blocks * INDEX_ENTRY;
    const at = footer.indexOffset - from;
    const inside = at >= 0 && at + length + FOOTER <= tail.length;
    const bytes = inside
      ? tail.subarray(at, at + length)
      : (await this.source.range(footer.indexOffset, footer.indexOffset + length)).bytes;
    const places = parseIndex(bytes, footer.blocks, footer.crc);
    this.blocks.splice(0, this.blocks.length, ...places);
    this.complete = true;
    return true;
  }

  /** Goes from where it stopped through all whole blocks there are. */
  private async walk(): Promise<void> {
    let size = WALK;
    for (;;) {
      const { bytes } = await this.source.range(this.walked, this.walked + size);
      let at = 0;
      for (;;) {
        const place = blockAt(bytes, at, this.walked);
        if (!place) break;
        this.blocks.push(place);
        at += place.length;
      }
      this.walked += at;
      const atEnd = bytes.length < size;
      if (atEnd) return;
      // A block larger than a piece: the next read is larger.
      size = at === 0 ? size * 4 : WALK;
      if (size > 256 << 20) return;
    }
  }
}

/** The number of the block for a moment: the last one that begins before it; -1 without blocks. */
export function blockFor(blocks: readonly BlockPlace[], ms: number): number {
  let low = 0;
  let high = blocks.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (blocks[middle]!.startMs <= ms) low = middle + 1;
    else high = middle;
  }
  return blocks.length === 0 ? -1 : Math.max(0, low - 1);
}
