/**
 * The replay file as docs/replay-format.md has it: header, blocks, index, footer. Pure but for unpacking.
 *
 * Every length is checked against its limit before anything of that size is made.
 */

import type { RunEvent } from "../api/types.ts";

export const VERSION = 1;
export const HEADER_FIXED = 16;
export const BLOCK_FIXED = 24;
export const INDEX_ENTRY = 20;
export const FOOTER = 32;
const LARGEST_HEADER = 1 << 20;
const LARGEST_PAYLOAD = 64 << 20;
const MOST_INSTANCES = 1_000_000;
const MOST_CHANNELS = 16;

export type Header = {
  run: string; name: string; submitted_ms: number; instances: number;
  groups: { id: string; instances: number; region?: string; household?: number }[];
  channels: string[];
};

/** Where a block is in the file. */
export type BlockPlace = { startMs: number; endMs: number; offset: number; length: number };

/** One step: from `at` on these instances have these values. Without gaps the values are differences of all. */
export type Step = { at: number; channel: number; dense: boolean; count: number };

/** A block, unpacked. The arrays may be handed to another thread. */
export type Block = {
  startMs: number; endMs: number; instances: number; channels: number;
  keyframe: Uint8Array;
  steps: Step[];
  /** Of all sparse steps, in order. */
  gaps: Uint32Array;
  /** Of all steps, in order. */
  values: Uint8Array;
  flowFrom: Uint32Array; flowTo: Uint32Array; flowRate: Uint8Array;
  events: RunEvent[];
};

/** A file that is not what it should be. */
export class ReplayError extends Error {}

function check(holds: boolean, message: string): asserts holds {
  if (!holds) throw new ReplayError(message);
}

function magic(bytes: Uint8Array, at: number, text: string): boolean {
  if (at + text.length > bytes.length) return false;
  for (let i = 0; i < text.length; i += 1) if (bytes[at + i] !== text.charCodeAt(i)) return false;
  return true;
}

function view(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

/** How many bytes the header has in all; the first 16 are needed to know. */
export function headerLength(bytes: Uint8Array): number {
  check(magic(bytes, 0, "GSREPLAY"), "this is no replay file");
  check(bytes.length >= HEADER_FIXED, "the header is cut");
  const version = view(bytes).getUint16(8, true);
  check(version === VERSION, `this is version ${version} of the replay format, and the page reads version ${VERSION}`);
  const length = view(bytes).getUint32(12, true);
  check(length <= LARGEST_HEADER, "the header is too long");
  return HEADER_FIXED + length;
}

export function parseHeader(bytes: Uint8Array): Header {
  const length = headerLength(bytes);
  check(bytes.length >= length, "the header is cut");
  const header = JSON.parse(new TextDecoder().decode(bytes.subarray(HEADER_FIXED, length))) as Header;
  const sum = header.groups.reduce((all, group) => all + group.instances, 0);
  check(sum === header.instances, "the groups do not add up to the instances");
  check(header.instances <= MOST_INSTANCES, "there are too many instances");
  check(header.channels.length <= MOST_CHANNELS && header.channels[0] === "state", "the channels are wrong");
  return header;
}

/** The footer at the end of `tail`; null when there is none and the file is still being written. */
export function parseFooter(tail: Uint8Array): { indexOffset: number; blocks: number; crc: number } | null {
  const at = tail.length - FOOTER;
  if (at < 0 || !magic(tail, at + 24, "GSREPEND")) return null;
  const v = view(tail);
  check(v.getUint16(at + 20, true) === VERSION, "header and footer have different versions");
  return {
    indexOffset: Number(v.getBigUint64(at, true)), blocks: v.getUint32(at + 8, true), crc: v.getUint32(at + 12, true),
  };
}

export function parseIndex(bytes: Uint8Array, blocks: number, crc: number): BlockPlace[] {
  check(bytes.length === blocks * INDEX_ENTRY, "the index is cut");
  check(crc32(bytes) === crc, "the index is damaged");
  const v = view(bytes);
  return Array.from({ length: blocks }, (_, number) => {
    const at = number * INDEX_ENTRY;
    return {
      startMs: v.getUint32(at, true), endMs: v.getUint32(at + 4, true),
      offset: Number(v.getBigUint64(at + 8, true)), length: v.getUint32(at + 16, true),
    };
  });
}

/**
 * The block that begins at `at` of `bytes`, which is `base` of the file. Null when it is not all there, or when it is
 * no block: the index begins, or a writer was interrupted.
 */
export function blockAt(bytes: Uint8Array, at: number, base: number): BlockPlace | null {
  if (at + BLOCK_FIXED > bytes.length || !magic(bytes, at, "GSBK")) return null;
  const v = view(bytes);
  const length = BLOCK_FIXED + v.getUint32(at + 12, true);
  if (at + length > bytes.length) return null;
  return { startMs: v.getUint32(at + 4, true), endMs: v.getUint32(at + 8, true), offset: base + at, length };
}

/** Unpacks a block from its bytes, header included. */
export async function parseBlock(bytes: Uint8Array, header: Header): Promise<Block> {
  check(magic(bytes, 0, "GSBK") && bytes.length >= BLOCK_FIXED, "there is no block");
  const v = view(bytes);
  const [startMs, endMs, packed, length, crc] =
    [4, 8, 12, 16, 20].map((at) => v.getUint32(at, true)) as [number, number, number, number, number];
  check(packed <= LARGEST_PAYLOAD && length <= LARGEST_PAYLOAD, "the block is too large");
  check(bytes.length >= BLOCK_FIXED + packed, "the block is cut");
  const body = bytes.subarray(BLOCK_FIXED, BLOCK_FIXED + packed);
  check(crc32(body) === crc, "the block is damaged");
  const payload = await inflate(body, length);
  return parsePayload(payload, startMs, endMs, header);
}

/** Takes what is inside a block apart. */
export function parsePayload(payload: Uint8Array, startMs: number, endMs: number, header: Header): Block {
  check(payload.length >= 20, "the block is cut");
  const v = view(payload);
  const [instances, channels, stepCount, flows, eventBytes] =
    [0, 4, 8, 12, 16].map((at) => v.getUint32(at, true)) as [number, number, number, number, number];
  check(instances === header.instances && channels === header.channels.length, "the block is of another run");
  let at = 20;
  const take = (length: number) => {
    check(at + length <= payload.length, "the block is shorter than it says");
    at += length;
    return payload.subarray(at - length, at);
  };
  const keyframe = take(instances * channels).slice();
  const { steps, gapCount, valueCount } = parseSteps(take(stepCount * 8), instances, channels);
  const gaps = words(take(gapCount * 4));
  const values = take(valueCount).slice();
  const flowFrom = words(take(flows * 4));
  const flowTo = words(take(flows * 4));
  const flowRate = take(flows).slice();
  const events = parseEvents(take(eventBytes));
  check(at === payload.length, "the block is longer than it says");
  return { startMs, endMs, instances, channels, keyframe, steps, gaps, values, flowFrom, flowTo, flowRate, events };
}

function parseSteps(table: Uint8Array, instances: number, channels: number) {
  const v = view(table);
  const steps: Step[] = [];
  let gapCount = 0;
  let valueCount = 0;
  let before = 0;
  for (let at = 0; at < table.length; at += 8) {
    const form = v.getUint8(at + 3);
    const step = {
      at: v.getUint16(at, true), channel: v.getUint8(at + 2), dense: form === 1, count: v.getUint32(at + 4, true),
    };
    check(form <= 1 && step.channel < channels && step.count <= instances && step.at >= before, "a step is wrong");
    check(!step.dense || step.count === instances, "a step is wrong");
    before = step.at;
    gapCount += step.dense ? 0 : step.count;
    valueCount += step.count;
    steps.push(step);
  }
  return { steps, gapCount, valueCount };
}

/** Little-endian words wherever they lie. */
function words(bytes: Uint8Array): Uint32Array {
  const v = view(bytes);
  const all = new Uint32Array(bytes.length / 4);
  for (let i = 0; i < all.length; i += 1) all[i] = v.getUint32(i * 4, true);
  return all;
}

function parseEvents(bytes: Uint8Array): RunEvent[] {
  const lines = new TextDecoder().decode(bytes).split("\n");
  return lines.filter((line) => line !== "").map((line) => JSON.parse(line) as RunEvent);
}

async function inflate(body: Uint8Array, length: number): Promise<Uint8Array> {
  const stream = new Blob([body.slice()]).stream().pipeThrough(new DecompressionStream("deflate-raw"));
  const reader = stream.getReader();
  const all = new Uint8Array(length);
  let at = 0;
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    check(at + value.length <= length, "the block is longer than it says");
    all.set(value, at);
    at += value.length;
  }
  check(at === length, "the block is shorter than it says");
  return all;
}

const CRC_TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
  let crc = byte;
  for (let bit = 0; bit < 8; bit += 1) crc = crc & 1 ? (crc >>> 1) ^ 0xedb88320 : crc >>> 1;
  return crc;
});

/** CRC-32 as in gzip. */
export function crc32(bytes: Uint8Array): number {
  let crc = 0xffffffff;
  for (let at = 0; at < bytes.length; at += 1) crc = (crc >>> 8) ^ (CRC_TABLE[(crc ^ bytes[at]!) & 0xff] ?? 0);
  return (crc ^ 0xffffffff) >>> 0;
}

/** The bits per second a rate code stands for. */
export function rateOf(code: number): number {
  return code === 0 ? 0 : 2 ** ((code - 1) / 8);
}

/** The rate code of bits per second. */
export function rateCode(bps: number): number {
  return bps <= 0 ? 0 : Math.max(1, Math.min(255, 1 + Math.round(8 * Math.log2(bps))));
}
