import assert from "node:assert/strict";
import { test } from "node:test";
import { moved, toScreen, toWorld, whole, zoomed } from "../../src/graph/camera.ts";
import { layout, nearest } from "../../src/graph/layout.ts";
import type { Circle } from "../../src/graph/layout.ts";

const GROUPS = [
  { id: "seed", instances: 50, region: "eu" }, { id: "home", instances: 3000, region: "eu", household: 4 },
  { id: "us", instances: 4000, region: "us", household: 3 }, { id: "ap", instances: 2900, region: "ap" }, { id: "one", instances: 50, region: "ap" },
];

function apart(circles: Circle[]): void {
  circles.forEach((one, at) => circles.slice(at + 1).forEach((other) => {
    assert.ok(Math.hypot(one.x - other.x, one.y - other.y) >= one.r + other.r - 1e-3, `${one.label} lies over ${other.label}`);
  }));
}

test("the same groups give the same picture, and nobody stands on somebody else", () => {
  const [one, other] = [layout(GROUPS), layout(GROUPS)];
  assert.deepEqual(one.positions, other.positions);
  const places = new Set<string>();
  for (let at = 0; at < 10_000; at += 1) places.add(`${one.positions[at * 2]!.toFixed(2)} ${one.positions[at * 2 + 1]!.toFixed(2)}`);
  assert.equal(places.size, 10_000);
});

test("groups and regions do not lie over each other, and everyone is in the own group's circle", () => {
  const found = layout(GROUPS);
  apart(found.groups);
  apart(found.regions);
  assert.deepEqual(found.regions.map((region) => region.label), ["eu", "us", "ap"]);
  let first = 0;
  GROUPS.forEach((group, at) => {
    const circle = found.groups[at]!;
    for (let i = first; i < first + group.instances; i += 1) {
      const far = Math.hypot(found.positions[i * 2]! - circle.x, found.positions[i * 2 + 1]! - circle.y);
      assert.ok(far <= circle.r + 1e-3);
    }
    first += group.instances;
  });
  for (const circle of [...found.groups, ...found.regions]) assert.ok(Math.abs(circle.x) <= found.bounds.wide && Math.abs(circle.y) <= found.bounds.tall, circle.label);
});

test("a household stands closer together than to others", () => {
  const { positions } = layout([{ id: "home", instances: 40, household: 4 }]);
  const far = (one: number, other: number) => Math.hypot(positions[one * 2]! - positions[other * 2]!, positions[one * 2 + 1]! - positions[other * 2 + 1]!);
  for (let i = 0; i < 40; i += 1) {
    for (let other = 0; other < 40; other += 1) {
      if (Math.floor(i / 4) !== Math.floor(other / 4)) assert.ok(far(i, other) > far(i - (i % 4), i - (i % 4) + 1) * 0.6);
    }
  }
});

test("250 groups, one instance, and nobody at all have a picture", () => {
  const many = layout(Array.from({ length: 250 }, (_, at) => ({ id: `g${at}`, instances: 1 + (at % 40) })));
  apart(many.groups);
  assert.equal(layout([{ id: "a", instances: 1 }]).positions.length, 2);
  const none = layout([]);
  assert.ok(none.positions.length === 0 && none.bounds.wide > 0);
  assert.ok(Number.isFinite(layout([{ id: "a", instances: 0 }]).bounds.tall));
});

test("the nearest instance is found, and only near by", () => {
  const { positions } = layout(GROUPS);
  assert.equal(nearest(positions, positions[1234 * 2]! + 0.01, positions[1234 * 2 + 1]!, 0.5), 1234);
  assert.equal(nearest(positions, 1e5, 0, 0.5), null);
});

test("the camera keeps the point under the pointer where it is", () => {
  const camera = whole({ wide: 50, tall: 40 }, 800, 600);
  const near = zoomed(camera, 2, 100, 500, 800, 600);
  assert.deepEqual(toWorld(near, 100, 500, 800, 600).map((value) => value.toFixed(6)), toWorld(camera, 100, 500, 800, 600).map((value) => value.toFixed(6)));
  const [x, y] = toScreen(moved(near, 30, -10), ...toWorld(near, 200, 200, 800, 600), 800, 600);
  assert.ok(Math.abs(x - 230) < 1e-6 && Math.abs(y - 190) < 1e-6);
});
