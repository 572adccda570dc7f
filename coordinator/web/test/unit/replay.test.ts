import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import path from "node:path";
import { test } from "node:test";
import { crc32, parseHeader, rateCode, rateOf, ReplayError } from "../../src/replay/format.ts";
import type { Block, Header } from "../../src/replay/format.ts";
import { Player } from "../../src/replay/player.ts";
import { blockFor, ReplayReader } from "../../src/replay/reader.ts";
import { BytesSource } from "../../src/replay/source.ts";
import type { Piece, Source } from "../../src/replay/source.ts";
import { dice, simulate, writeFile } from "../fake/replay.ts";

const ROOT = path.resolve(process.env["WEB_ROOT"] ?? ".", "../..");

/** The bytes of the listing in the document. */
function example(): Uint8Array {
  const text = readFileSync(path.join(ROOT, "docs/replay-format.md"), "utf8");
  const listing = /```hexdump\n([\s\S]*?)```/.exec(text)?.[1] ?? "";
  const hex = listing.split("\n").map((line) => line.slice(8, 55).replaceAll(" ", "")).join("");
  return Uint8Array.from(Buffer.from(hex, "hex"));
}

const HEADER: Header = {
  run: "c8k3vmlrirtj2p8lcec0", name: "calm-heron", submitted_ms: 1, instances: 300, groups: [{ id: "all", instances: 300 }], channels: ["state", "sent"],
};

/** Counts what is read of a file. */
class Counting implements Source {
  reads = 0;
  inner: BytesSource;
  constructor(public bytes: Uint8Array) {
    this.inner = new BytesSource(bytes);
  }
  range(from: number, to: number): Promise<Piece> {
    this.reads += 1;
    return this.inner.range(from, to);
  }
  tail(length: number): Promise<Piece> {
    this.reads += 1;
    return this.inner.tail(length);
  }
}

test("the example of the document is read as the document says", async () => {
  const reader = await ReplayReader.open(new BytesSource(example()));
  assert.deepEqual(reader.header.channels, ["state", "sent"]);
  assert.deepEqual(reader.header.groups, [{ id: "seed", instances: 1 }, { id: "home", instances: 2 }]);
  assert.equal(reader.complete, true);
  assert.deepEqual(reader.blocks.map(({ startMs, endMs }) => [startMs, endMs]), [[0, 10_000], [10_000, 12_000]]);
  const player = new Player(await reader.block(0));
  const at = (ms: number) => (player.seek(ms), [[...player.channel(0)], [...player.channel(1)]]);
  assert.deepEqual(at(0), [[1, 1, 1], [0, 0, 0]]);
  assert.deepEqual(at(1499), [[1, 1, 1], [0, 0, 0]]);
  assert.deepEqual(at(1500), [[3, 3, 3], [0, 0, 0]]);
  assert.deepEqual(at(9999), [[3, 3, 3], [161, 134, 0]]);
  assert.deepEqual(at(2000), [[3, 3, 3], [161, 0, 0]], "and back");
  const last = new Player(await reader.block(1));
  last.seek(10_500);
  assert.deepEqual([...last.values], [3, 3, 7, 161, 134, 0]);
  assert.equal(last.block.events[0]?.kind, "instance_ended");
  assert.deepEqual([[...player.block.flowFrom], [...player.block.flowTo], [...player.block.flowRate]], [[0], [1], [134]]);
});

test("what was written is read, and the last moment of a block is the next one's keyframe", async () => {
  const blocks = simulate(HEADER, 60);
  const source = new Counting(writeFile(HEADER, blocks));
  const reader = await ReplayReader.open(source);
  assert.equal(source.reads, 2, "a complete file is opened with two reads");
  assert.equal(reader.blocks.length, 6);
  let before: Block | null = null;
  for (const number of reader.blocks.keys()) {
    const block = await reader.block(number);
    if (before) {
      const player = new Player(before);
      player.seek(before.endMs - 1);
      assert.deepEqual(player.values, block.keyframe);
    }
    before = block;
  }
  assert.equal(source.reads, 8, "and a block with one");
});

test("going to any moment from anywhere is going there from the keyframe", async () => {
  const reader = await ReplayReader.open(new BytesSource(writeFile(HEADER, simulate(HEADER, 10))));
  const block = await reader.block(0);
  const wandering = new Player(block);
  const random = dice(3);
  for (let round = 0; round < 60; round += 1) {
    const ms = Math.floor(random() * 10_000);
    const fresh = new Player(block);
    fresh.seek(ms);
    wandering.seek(ms);
    assert.deepEqual(wandering.values, fresh.values, `at ${ms}`);
  }
});

test("a file that is being written is read as far as it is whole, and further later", async () => {
  const blocks = simulate(HEADER, 40);
  const whole = writeFile(HEADER, blocks);
  const two = writeFile(HEADER, blocks.slice(0, 2), false);
  const source = new Counting(Uint8Array.from([...two, ...writeFile(HEADER, blocks.slice(2, 3), false).subarray(200, 260)]));
  const reader = await ReplayReader.open(source);
  assert.deepEqual([reader.complete, reader.blocks.length], [false, 2]);
  assert.equal(await reader.refresh(), false);
  source.inner = new BytesSource(writeFile(HEADER, blocks.slice(0, 3), false));
  assert.equal(await reader.refresh(), true);
  assert.deepEqual([reader.complete, reader.blocks.length], [false, 3]);
  source.inner = new BytesSource(whole);
  assert.equal(await reader.refresh(), true);
  assert.deepEqual([reader.complete, reader.blocks.length], [true, 4]);
  assert.equal((await reader.block(3)).endMs, 40_000);
});

test("damage, other versions and lies about lengths are refused", async () => {
  const good = writeFile(HEADER, simulate(HEADER, 20));
  const spoiled = (change: (bytes: Uint8Array) => void) => {
    const bytes = Uint8Array.from(good);
    change(bytes);
    return ReplayReader.open(new BytesSource(bytes)).then((reader) => reader.block(0));
  };
  await assert.rejects(spoiled((bytes) => (bytes[0] = 0)), /no replay file/);
  await assert.rejects(spoiled((bytes) => (bytes[8] = 2)), /version 2/);
  await assert.rejects(spoiled((bytes) => (bytes[15] = 0xff)), ReplayError);
  await assert.rejects(spoiled((bytes) => (bytes[bytes.length - 40] = bytes[bytes.length - 40]! ^ 1)), /index is damaged/);
  const header = parseHeader(good);
  const at = 16 + JSON.stringify(header).length;
  await assert.rejects(spoiled((bytes) => (bytes[at + 40] = bytes[at + 40]! ^ 1)), /block is damaged/);
  await assert.rejects(spoiled((bytes) => (bytes[at + 16] = bytes[at + 16]! + 1)), /shorter than it says/);
  await assert.rejects(spoiled((bytes) => (bytes[at + 16] = bytes[at + 16]! - 1)), /longer than it says/);
});

test("a failed read is tried again", async () => {
  const source = new BytesSource(writeFile(HEADER, simulate(HEADER, 10)));
  const reader = await ReplayReader.open(source);
  const range = source.range.bind(source);
  source.range = () => Promise.reject(new Error("gone"));
  await assert.rejects(reader.block(0), /gone/);
  source.range = range;
  assert.equal((await reader.block(0)).startMs, 0);
});

test("the block for a moment is the last that begins before it", () => {
  const blocks = [{ startMs: 0 }, { startMs: 10_000 }, { startMs: 30_000 }].map((one) => ({ ...one, endMs: 0, offset: 0, length: 0 }));
  assert.deepEqual([-5, 0, 9_999, 10_000, 25_000, 99_000].map((ms) => blockFor(blocks, ms)), [0, 0, 0, 1, 1, 2]);
  assert.equal(blockFor([], 5), -1);
});

test("rate codes are within a tenth, and the checksum is the usual one", () => {
  assert.deepEqual([0, 1, 2 ** 20, 1e12].map(rateCode), [0, 1, 161, 255]);
  for (let bps = 1; bps < 3e9; bps *= 1.37) assert.ok(Math.abs(rateOf(rateCode(bps)) / bps - 1) < 0.05, String(bps));
  assert.equal(crc32(new TextEncoder().encode("123456789")), 0xcbf43926);
});

test("ten thousand instances: the file is small, and a moment is quick", async () => {
  const header = { ...HEADER, instances: 10_000, groups: [{ id: "all", instances: 10_000 }] };
  const file = writeFile(header, simulate(header, 60));
  const reader = await ReplayReader.open(new BytesSource(file));
  const begun = performance.now();
  const block = await reader.block(3);
  const read = performance.now();
  const player = new Player(block);
  player.seek(block.endMs - 1);
  console.log(`10,000 instances: ${(file.length / 6 / 1024).toFixed(0)} KiB a block, unpacked in ${(read - begun).toFixed(1)} ms, sought in ${(performance.now() - read).toFixed(1)} ms`);
  assert.ok(file.length < 6 * 400 * 1024);
});
