/**
 * Where instances are drawn. Deterministic and without forces: the same groups give the same picture every time, so
 * that two runs can be looked at side by side. Pure.
 *
 * Regions are circles; in them each group is a disc with its instances in a sunflower; instances that share a NAT
 * stand together.
 */

export type LayoutGroup = { id: string; instances: number; region?: string | undefined; household?: number | undefined };
export type Circle = { label: string; x: number; y: number; r: number };
export type Layout = {
  /** x and y of each instance. */
  positions: Float32Array;
  groups: Circle[];
  /** Empty when no group has a region. */
  regions: Circle[];
  /** Half the width and half the height of everything; its middle is the origin. */
  bounds: Bounds;
};
export type Bounds = { wide: number; tall: number };

/** Distance between neighbours is about 1; this is the room a sunflower needs for each. */
const SPACING = 0.62;
const GOLDEN = Math.PI * (3 - Math.sqrt(5));
const GAP = 2.2;

export function layout(groups: readonly LayoutGroup[]): Layout {
  const total = groups.reduce((sum, group) => sum + group.instances, 0);
  const positions = new Float32Array(total * 2);
  const names = [...new Set(groups.map((group) => group.region ?? ""))];
  const discs = groups.map((group) => ({ ...disc(group), label: group.id }));
  const regions = names.map((name) => {
    const members = groups.flatMap((group, at) => ((group.region ?? "") === name ? [at] : []));
    const packed = pack(members.map((at) => discs[at]!.r));
    return { name, members, packed };
  });
  const outer = pack(regions.map((region) => region.packed.r + (names.length > 1 ? GAP : 0)));
  const circles: Circle[] = new Array<Circle>(groups.length);
  regions.forEach((region, number) => {
    const center = outer.places[number]!;
    region.members.forEach((at, member) => {
      const place = region.packed.places[member]!;
      circles[at] = { label: groups[at]!.id, x: center.x + place.x, y: center.y + place.y, r: discs[at]!.r };
    });
  });
  let first = 0;
  groups.forEach((group, at) => {
    const { x, y } = circles[at]!;
    const points = discs[at]!.points;
    for (let i = 0; i < group.instances; i += 1) {
      positions[(first + i) * 2] = x + points[i * 2]!;
      positions[(first + i) * 2 + 1] = y + points[i * 2 + 1]!;
    }
    first += group.instances;
  });
  const named = names.length > 1 || names[0] !== "";
  const regionCircles = regions.map((region, number) => ({
    label: region.name || "no region", ...outer.places[number]!, r: region.packed.r + GAP / 2,
  }));
  return { positions, groups: circles, regions: named ? regionCircles : [], bounds: boundsOf(circles, named ? regionCircles : []) };
}

/** What circles cover, with room for their names. */
function boundsOf(groups: Circle[], regions: Circle[]): Bounds {
  const bounds = { wide: 2, tall: 2 };
  for (const { x, y, r } of [...groups, ...regions.map((region) => ({ ...region, r: 0 }))]) {
    bounds.wide = Math.max(bounds.wide, Math.abs(x) + r);
    bounds.tall = Math.max(bounds.tall, Math.abs(y) + r);
  }
  return bounds;
}

/** The points of one group around its middle, and how far they reach. */
function disc(group: LayoutGroup): { points: Float32Array; r: number } {
  const points = new Float32Array(group.instances * 2);
  const size = Math.max(1, Math.min(group.household ?? 1, group.instances));
  const houses = Math.ceil(group.instances / size);
  // A household of one is a point; others are a ring that needs room of its own.
  const ring = size === 1 ? 0 : Math.max(0.45, (size * 0.75) / (2 * Math.PI));
  const step = size === 1 ? SPACING : SPACING * 2 * (ring + 0.75);
  let far = 0;
  for (let i = 0; i < group.instances; i += 1) {
    const house = Math.floor(i / size);
    const distance = step * Math.sqrt(house + 0.5);
    const angle = house * GOLDEN;
    const turn = ((i % size) / size) * 2 * Math.PI;
    const x = distance * Math.cos(angle) + ring * Math.cos(turn);
    const y = distance * Math.sin(angle) + ring * Math.sin(turn);
    points[i * 2] = x;
    points[i * 2 + 1] = y;
    far = Math.max(far, Math.hypot(x, y));
  }
  return { points, r: houses === 0 ? 1 : far + 1 };
}

type Packed = { places: { x: number; y: number }[]; r: number };

/** Puts circles of these radii beside each other, the largest in the middle, none over another. */
function pack(radii: number[]): Packed {
  const order = radii.map((_, at) => at).sort((one, other) => radii[other]! - radii[one]! || one - other);
  const places = radii.map(() => ({ x: 0, y: 0 }));
  const done: number[] = [];
  for (const at of order) {
    places[at] = done.length === 0 ? { x: 0, y: 0 } : nearestFree(places, radii, done, at);
    done.push(at);
  }
  return centered(places, radii);
}

/** The free place nearest to the middle among those that touch one of the circles that are there. */
function nearestFree(places: { x: number; y: number }[], radii: number[], done: number[], at: number) {
  const TURNS = 48;
  let best = { x: 0, y: 0 };
  let bestFar = Infinity;
  for (const other of done) {
    const distance = radii[other]! + radii[at]! + GAP;
    for (let turn = 0; turn < TURNS; turn += 1) {
      const angle = (turn / TURNS) * 2 * Math.PI;
      const x = places[other]!.x + distance * Math.cos(angle);
      const y = places[other]!.y + distance * Math.sin(angle);
      const far = Math.hypot(x, y) + radii[at]! / 2;
      if (far >= bestFar - 1e-9) continue;
      const free = done.every((one) => {
        const least = radii[one]! + radii[at]! + GAP - 1e-6;
        return Math.hypot(places[one]!.x - x, places[one]!.y - y) >= least;
      });
      if (free) {
        best = { x, y };
        bestFar = far;
      }
    }
  }
  return best;
}

/** Moves the middle of what is covered to the origin. */
function centered(places: { x: number; y: number }[], radii: number[]): Packed {
  if (places.length === 0) return { places, r: 1 };
  const low = { x: Infinity, y: Infinity };
  const high = { x: -Infinity, y: -Infinity };
  places.forEach(({ x, y }, at) => {
    const r = radii[at]!;
    low.x = Math.min(low.x, x - r);
    low.y = Math.min(low.y, y - r);
    high.x = Math.max(high.x, x + r);
    high.y = Math.max(high.y, y + r);
  });
  const middle = { x: (low.x + high.x) / 2, y: (low.y + high.y) / 2 };
  const moved = places.map(({ x, y }) => ({ x: x - middle.x, y: y - middle.y }));
  const r = moved.reduce((far, { x, y }, at) => Math.max(far, Math.hypot(x, y) + radii[at]!), 0);
  return { places: moved, r };
}

/** The instance nearest to a point, if one is within `reach`. */
export function nearest(positions: Float32Array, x: number, y: number, reach: number): number | null {
  let best: number | null = null;
  let least = reach * reach;
  for (let at = 0; at < positions.length / 2; at += 1) {
    const dx = positions[at * 2]! - x;
    const dy = positions[at * 2 + 1]! - y;
    const far = dx * dx + dy * dy;
    if (far <= least) {
      least = far;
      best = at;
    }
  }
  return best;
}
