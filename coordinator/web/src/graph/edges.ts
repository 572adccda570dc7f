/** Which flows are drawn. Pure. */

import type { Block } from "../replay/format.ts";
import type { Edges } from "./painter.ts";

export type EdgeMode = "selection" | "largest" | "none";

/** Lines beyond these many are only ink. */
const LARGEST = 2000;

/** The flows of a block to be drawn: those of the selected instance, or the largest. */
export function edgesOf(block: Block, mode: EdgeMode, selected: number | null): Edges | null {
  if (mode === "none" || block.flowFrom.length === 0) return null;
  const all = Array.from(block.flowFrom.keys());
  const taken = mode === "selection"
    ? all.filter((at) => selected !== null && (block.flowFrom[at] === selected || block.flowTo[at] === selected))
    : all.sort((one, other) => block.flowRate[other]! - block.flowRate[one]! || one - other).slice(0, LARGEST);
  if (taken.length === 0) return null;
  return {
    from: Uint32Array.from(taken, (at) => block.flowFrom[at]!),
    to: Uint32Array.from(taken, (at) => block.flowTo[at]!),
    rate: Uint8Array.from(taken, (at) => block.flowRate[at]!),
  };
}

/** Those an instance sends to and hears from, the largest first. */
export function neighbours(block: Block, instance: number): { other: number; out: number; in: number }[] {
  const found = new Map<number, { other: number; out: number; in: number }>();
  for (let at = 0; at < block.flowFrom.length; at += 1) {
    const [from, to, rate] = [block.flowFrom[at]!, block.flowTo[at]!, block.flowRate[at]!];
    if (from !== instance && to !== instance) continue;
    const other = from === instance ? to : from;
    const known = found.get(other) ?? { other, out: 0, in: 0 };
    if (from === instance) known.out = rate;
    else known.in = rate;
    found.set(other, known);
  }
  return [...found.values()].sort((one, two) => Math.max(two.out, two.in) - Math.max(one.out, one.in));
}
