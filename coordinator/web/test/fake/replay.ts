/** Writes replay files for tests, as docs/replay-format.md says. */

import { deflateRawSync } from "node:zlib";
import { BLOCK_FIXED, crc32, INDEX_ENTRY, rateCode } from "../../src/replay/format.ts";
import type { Header } from "../../src/replay/format.ts";
import type { RunEvent } from "../../src/api/types.ts";

export type WriteStep = { at: number; channel: number } & ({ sparse: [instance: number, value: number][] } | { dense: Uint8Array });
export type WriteBlock = {
  startMs: number; endMs: number; keyframe: Uint8Array; steps: WriteStep[];
  flows: [from: number, to: number, rate: number][]; events: RunEvent[];
};

export function writeHeader(header: Header): Buffer {
  const json = Buffer.from(JSON.stringify(header));
  const head = Buffer.alloc(16);
  head.write("GSREPLAY", 0, "latin1");
  head.writeUInt16LE(1, 8);
  head.writeUInt32LE(json.length, 12);
  return Buffer.concat([head, json]);
}

export function writeBlock(block: WriteBlock, header: Header, level = 6): Buffer {
  const payload = writePayload(block, header);
  const packed = deflateRawSync(payload, { level });
  const head = Buffer.alloc(BLOCK_FIXED);
  head.write("GSBK", 0, "latin1");
  [block.startMs, block.endMs, packed.length, payload.length, crc32(packed)].forEach((word, at) => head.writeUInt32LE(word, 4 + at * 4));
  return Buffer.concat([head, packed]);
}

function words(numbers: number[]): Buffer {
  const all = Buffer.alloc(numbers.length * 4);
  numbers.forEach((number, at) => all.writeUInt32LE(number, at * 4));
  return all;
}

function writePayload(block: WriteBlock, header: Header): Buffer {
  const events = Buffer.from(block.events.map((event) => `${JSON.stringify(event)}\n`).join(""));
  const table = Buffer.alloc(block.steps.length * 8);
  const gaps: number[] = [];
  const values: Buffer[] = [];
  block.steps.forEach((step, number) => {
    const dense = "dense" in step;
    table.writeUInt16LE(step.at, number * 8);
    table.writeUInt8(step.channel, number * 8 + 2);
    table.writeUInt8(dense ? 1 : 0, number * 8 + 3);
    table.writeUInt32LE(dense ? step.dense.length : step.sparse.length, number * 8 + 4);
    if (dense) values.push(Buffer.from(step.dense));
    else {
      let before = 0;
      for (const [instance] of step.sparse) {
        gaps.push(instance - before);
        before = instance;
      }
      values.push(Buffer.from(step.sparse.map(([, value]) => value)));
    }
  });
  const counts = [header.instances, header.channels.length, block.steps.length, block.flows.length, events.length];
  return Buffer.concat([
    words(counts), Buffer.from(block.keyframe), table, words(gaps), ...values,
    words(block.flows.map(([from]) => from)), words(block.flows.map(([, to]) => to)), Buffer.from(block.flows.map(([, , rate]) => rate)), events,
  ]);
}

/** A complete file, or one that is being written, without its end. */
export function writeFile(header: Header, blocks: WriteBlock[], complete = true, level = 6): Buffer {
  const parts = [writeHeader(header)];
  const index = Buffer.alloc(blocks.length * INDEX_ENTRY);
  let offset = parts[0]!.length;
  blocks.forEach((block, number) => {
    const bytes = writeBlock(block, header, level);
    const at = number * INDEX_ENTRY;
    index.writeUInt32LE(block.startMs, at);
    index.writeUInt32LE(block.endMs, at + 4);
    index.writeBigUInt64LE(BigInt(offset), at + 8);
    index.writeUInt32LE(bytes.length, at + 16);
    parts.push(bytes);
    offset += bytes.length;
  });
  if (!complete) return Buffer.concat(parts);
  const footer = Buffer.alloc(32);
  footer.writeBigUInt64LE(BigInt(offset), 0);
  footer.writeUInt32LE(blocks.length, 8);
  footer.writeUInt32LE(crc32(index), 12);
  footer.writeUInt32LE(blocks.at(-1)?.endMs ?? 0, 16);
  footer.writeUInt16LE(1, 20);
  footer.write("GSREPEND", 24, "latin1");
  return Buffer.concat([...parts, index, footer]);
}

/** A generator that is good enough and the same every time. */
export function dice(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4294967296;
  };
}

/** A run of so many seconds: everyone starts, talks, some pause and fail, most succeed. */
export function simulate(header: Header, seconds: number, seed = 7): WriteBlock[] {
  const random = dice(seed);
  const count = header.instances;
  const state = new Uint8Array(count).fill(1);
  const sent = new Uint8Array(count);
  const flowsOf = Array.from({ length: count * 2 }, (): [number, number] => [Math.floor(random() * count), Math.floor(random() * count)])
    .filter(([from, to]) => from !== to).sort((one, two) => one[0] - two[0] || one[1] - two[1])
    .filter((pair, at, all) => at === 0 || pair[0] !== all[at - 1]![0] || pair[1] !== all[at - 1]![1]).slice(0, 20_000);
  const blocks: WriteBlock[] = [];
  for (let start = 0; start < seconds * 1000; start += 10_000) {
    const endMs = Math.min(start + 10_000, seconds * 1000);
    const keyframe = Uint8Array.from([...state, ...sent]);
    const steps: WriteStep[] = [];
    const events: RunEvent[] = [];
    for (let at = 0; at < endMs - start; at += 1000) {
      stepStates(state, start + at, seconds * 1000, random, at, steps, events);
      stepRates(state, sent, random, at, steps);
    }
    blocks.push({ startMs: start, endMs, keyframe, steps, flows: flowsOf.map(([from, to]) => [from, to, rateCode(1000 + random() * 1e6)]), events });
  }
  return blocks;
}

function stepStates(state: Uint8Array, now: number, end: number, random: () => number, at: number, steps: WriteStep[], events: RunEvent[]): void {
  const changed: [number, number][] = [];
  for (let instance = 0; instance < state.length; instance += 1) {
    const before = state[instance]!;
    let after = before;
    if (before <= 2 && now >= 2000 && random() < 0.5) after = 3;
    else if (before === 3 && random() < 0.004) after = 5;
    else if (before === 5 && random() < 0.2) after = 3;
    else if (before === 3 && random() < 0.0006) after = 7;
    else if (before === 3 && now > end * 0.8 && random() < 0.22) after = 6;
    if (after === before) continue;
    changed.push([instance, after]);
    state[instance] = after;
    if (after === 7) events.push({ at_ms: now, kind: "instance_ended", text: "failure: peer table poisoned", worker: "w-01", group: "home", instance });
  }
  if (changed.length > 0) steps.push({ at, channel: 0, sparse: changed });
}

function stepRates(state: Uint8Array, sent: Uint8Array, random: () => number, at: number, steps: WriteStep[]): void {
  const differences = new Uint8Array(sent.length);
  for (let instance = 0; instance < sent.length; instance += 1) {
    const after = state[instance] === 3 ? rateCode(20_000 * (1 + Math.floor(random() * 4)) * (1 + (instance % 7))) : 0;
    differences[instance] = after - sent[instance]!;
    sent[instance] = after;
  }
  steps.push({ at, channel: 1, dense: differences });
}
