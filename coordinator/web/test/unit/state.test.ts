import assert from "node:assert/strict";
import { test } from "node:test";
import { SseParser } from "../../src/api/sse.ts";
import type { RunEntry, RunEvent, RunStatus } from "../../src/api/types.ts";
import * as format from "../../src/format.ts";
import { ascending, ecdf, median, places } from "../../src/state/distribution.ts";
import { binned, lanesOf, ticks } from "../../src/state/lanes.ts";
import { countStates, eventsAdded, gridChanged, gridFull, locate, parseInstance, runChanged, runsFull, STATES, workerOf } from "../../src/state/reduce.ts";

const entry = (run: string, revision: number, phase = "running"): RunEntry => ({
  status: { run, name: run, revision, phase } as RunStatus, source: { repo: "", branch: "", commit: "", dirty: false },
});
const event = (at_ms: number, kind = "message", more: Partial<RunEvent> = {}): RunEvent => ({ at_ms, kind, text: "", ...more });

test("an older status of a run changes nothing", () => {
  const runs = runsFull({ runs: [entry("b", 5), entry("a", 9)], more: false });
  assert.equal(runChanged(runs, entry("b", 4, "queued")), runs);
  assert.equal(runChanged(runs, entry("b", 6, "finished")).get("b")?.status.phase, "finished");
  assert.equal(runChanged(runs, entry("c", 0)).size, 3);
});

test("events follow each other once, however often they come, and a hole is noticed", () => {
  const first = eventsAdded(null, 10, [event(1), event(2)]).log;
  const twice = eventsAdded(first, 11, [event(2), event(3)]);
  assert.deepEqual(twice.log.events.map((one) => one.at_ms), [1, 2, 3]);
  assert.equal(twice.gap, false);
  assert.equal(eventsAdded(twice.log, 10, [event(1)]).log, twice.log);
  const hole = eventsAdded(twice.log, 20, [event(9)]);
  assert.deepEqual([hole.gap, hole.log.from, hole.log.events.length], [true, 20, 1]);
});

test("a grid takes the change that follows it, and no other", () => {
  const states = Buffer.from([0, 0, 3, 3]).toString("base64");
  const grid = gridFull({ run: "r", at_ms: 1, revision: 7, groups: [["a", 1], ["b", 3]], placement: [], states });
  const change = { run: "r", at_ms: 2, before: 7, revision: 8, changes: [[1, 2, 6], [9, 5, 7]] as [number, number, number][] };
  const after = gridChanged(grid, change);
  assert.deepEqual([...after!.states], [0, 6, 6, 3]);
  assert.deepEqual([...grid.states], [0, 0, 3, 3], "the old one is as it was");
  assert.equal(gridChanged(after!, change), null);
  assert.equal(gridChanged(grid, { ...change, run: "other" }), null);
  assert.deepEqual(countStates(after!.states).map((count, state) => [STATES[state], count]).filter(([, count]) => count), [["waiting", 1], ["running", 1], ["success", 2]]);
});

test("instances are found by number and by group", () => {
  const groups: [string, number][] = [["seeders", 2], ["home:nat", 3]];
  assert.deepEqual(["0", "4", "seeders:1", "home:nat:2", " 3 "].map((text) => parseInstance(groups, text)), [0, 4, 1, 4, 3]);
  assert.deepEqual(["5", "seeders:2", "x:1", "", "a"].map((text) => parseInstance(groups, text)), [null, null, null, null, null]);
  assert.deepEqual(locate(groups, 4), { group: "home:nat", inGroup: 2 });
  assert.equal(workerOf([["w-1", [{ group: 0, first: 0, first_in_group: 0, count: 2 }]]], 1), "w-1");
  assert.equal(workerOf([], 1), null);
});

test("server-sent events are parsed however they are cut", () => {
  const text = "retry: 2000\n\nid: e.1\nevent: hello\ndata: {\"a\":1}\n\n:\n\nid: e.2\ndata: one\ndata: two\r\n\r\nevent: lost\n\n";
  const whole = new SseParser().push(text);
  assert.deepEqual(whole, [{ id: "e.1", event: "hello", data: '{"a":1}' }, { id: "e.2", event: "message", data: "one\ntwo" }]);
  const parser = new SseParser();
  const pieces = [...text.replaceAll("\r\n", "\n")].flatMap((letter) => parser.push(letter));
  assert.deepEqual(pieces, whole);
  assert.equal(parser.retry, 2000);
  assert.equal(parser.lastId, "e.2");
});

test("numbers are written for people", () => {
  assert.deepEqual([0, 0.021, 0.412, 412, 3200, 101_000, 7_380_000].map(format.span), ["0 ms", "21 µs", "412 µs", "412 ms", "3.2 s", "1m41s", "2h03m"]);
  assert.equal(format.span(NaN), "–");
  assert.deepEqual([97_402, 3_600_000, -5].map(format.clock), ["01:37.402", "1:00:00.000", "−00:00.005"]);
  assert.deepEqual([999, 12_345_678, -1234].map(format.figures), ["999", "12\u202f345\u202f678", "−1\u202f234"]);
  assert.deepEqual([format.bps(20_000_000), format.bytes(18_400), format.percent(0.0098), format.amount(0.0123, "s"), format.amount(5, "peers")], ["20 Mbit/s", "18.4 kB", "0.98 %", "12.3 ms", "5 peers"]);
  assert.equal(format.figures(0.00001), "1.00e-5");
});

test("a run that is not over shows its phase, and one that is its verdict", () => {
  const status = { ...entry("a", 1).status, verdict: null } as RunStatus;
  assert.equal(format.runStatus(status).word, "running");
  assert.equal(format.runStatus({ ...status, forgotten: true }).word, "forgotten");
  assert.deepEqual(format.runStatus({ ...status, verdict: "timed_out" }), { word: "timed out", glyph: "✗", tone: "bad" });
});

test("distributions are read from values and from buckets, and their shares go from nothing to all", () => {
  const counts = { count: 6, sum: 1, min: -2, max: 5, zero: 1, pos: { "100": 3, "162": 1 }, neg: { "70": 1 } };
  const weighted = ascending({ buckets: counts });
  assert.deepEqual(weighted.map(({ count }) => count), [1, 1, 3, 1]);
  assert.ok(weighted[0]!.value < 0 && weighted[1]!.value === 0);
  assert.ok(Math.abs(weighted[2]!.value / 1.01 ** 100 - 1) < 0.006 && weighted[3]!.value <= 5);
  const exact = ascending({ values: [3, 1, 2, 2] });
  assert.deepEqual(ecdf(exact, [0, 1, 2, 3]), [0, 0.25, 0.75, 1]);
  const at = places([exact, weighted], 5);
  assert.deepEqual([at.length, at[0]!, at.at(-1)! >= 3], [5, weighted[0]!.value, true]);
  assert.equal(places([[], []], 5).length, 0);
  assert.deepEqual([median([3, 1, 2]), median([1, 2]), median([])], [2, 1.5, null]);
});

test("events stand in lanes, and stages are spans of their group", () => {
  const events = [
    event(0, "phase", { text: "submitted" }), event(10, "phase", { text: "running" }), event(12, "phase", { text: "share is started", worker: "w" }),
    event(20, "stage_start", { text: "find", group: "a", instance: 0 }), event(22, "stage_start", { text: "find", group: "a", instance: 1 }),
    event(30, "stage_end", { text: "find", group: "a", instance: 0 }), event(44, "stage_end", { text: "find", group: "a", instance: 1 }), event(50, "crash", { group: "b" }),
  ];
  const lanes = lanesOf(events, ["a", "b"]);
  assert.deepEqual(lanes.map((lane) => lane.name), ["phases", "failures", "a"]);
  assert.deepEqual(lanes[0]!.spans.map(({ from, to, text }) => [from, to, text]), [[0, 10, "submitted"], [10, null, "running"]]);
  assert.deepEqual(lanes[2]!.spans, [{ from: 20, to: 44, text: "find", faint: true }]);
  assert.deepEqual(binned([0, 1, 99, 100, 250], 100, 2), [2, 3]);
  assert.deepEqual(ticks(60_000, 6), [0, 10_000, 20_000, 30_000, 40_000, 50_000, 60_000]);
});
