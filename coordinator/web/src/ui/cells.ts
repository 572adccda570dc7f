/** The heat grid: where each instance's cell is, and how it is drawn. */

import { isBad } from "../state/reduce.ts";
import { css } from "./palette.ts";
import type { Palette } from "./palette.ts";

export type GridLayout = {
  cell: number; columns: number; width: number; height: number;
  blocks: { label: string; top: number; first: number; count: number }[];
};

const LABEL = 18;
const BETWEEN = 6;

/** Cells as large as fit a screen, each group a block under its name. */
export function gridLayout(groups: readonly [string, number][], width: number): GridLayout {
  const total = groups.reduce((sum, [, count]) => sum + count, 0);
  const cell = total > 6000 ? 8 : total > 2500 ? 10 : total > 600 ? 13 : total > 150 ? 18 : 24;
  const columns = Math.max(1, Math.floor(width / cell));
  let top = 0;
  let first = 0;
  const blocks = groups.map(([label, count]) => {
    const block = { label, top, first, count };
    top += LABEL + Math.ceil(count / columns) * cell + BETWEEN;
    first += count;
    return block;
  });
  return { cell, columns, width: columns * cell, height: Math.max(top, 1), blocks };
}

/** The instance whose cell is at a point. */
export function cellAt(layout: GridLayout, x: number, y: number): number | null {
  const block = layout.blocks.findLast((one) => one.top <= y);
  if (!block) return null;
  const row = Math.floor((y - block.top - LABEL) / layout.cell);
  const column = Math.floor(x / layout.cell);
  const number = row * layout.columns + column;
  const inside = row >= 0 && column >= 0 && column < layout.columns && number < block.count;
  return inside ? block.first + number : null;
}

export function drawGrid(
  canvas: HTMLCanvasElement, layout: GridLayout, states: Uint8Array, palette: Palette,
  marks: { only: ReadonlySet<number> | null; selected: number | null },
): void {
  const ratio = devicePixelRatio;
  canvas.width = layout.width * ratio;
  canvas.height = layout.height * ratio;
  canvas.style.width = `${layout.width}px`;
  canvas.style.height = `${layout.height}px`;
  const context = canvas.getContext("2d");
  if (!context) return;
  context.scale(ratio, ratio);
  context.font = "12px system-ui, sans-serif";
  context.textBaseline = "alphabetic";
  const paints = palette.states.map(css);
  for (const block of layout.blocks) {
    context.fillStyle = css(palette.quiet);
    context.fillText(`${block.label}  ${block.count}`, 0, block.top + LABEL - 5);
    for (let i = 0; i < block.count; i += 1) {
      const state = states[block.first + i] ?? 0;
      const x = (i % layout.columns) * layout.cell;
      const y = block.top + LABEL + Math.floor(i / layout.columns) * layout.cell;
      context.globalAlpha = marks.only === null || marks.only.has(state) ? 1 : 0.14;
      drawCell(context, x, y, layout.cell - 1, state, paints[state] ?? paints[0]!, css(palette.back));
      if (marks.selected === block.first + i) {
        context.globalAlpha = 1;
        context.strokeStyle = css(palette.front);
        context.lineWidth = 2;
        context.strokeRect(x - 1, y - 1, layout.cell + 1, layout.cell + 1);
      }
    }
    context.globalAlpha = 1;
  }
}

/** Outlines wait, full cells run, small ones succeeded, crosses failed, halves are down or were killed. */
function drawCell(
  context: CanvasRenderingContext2D, x: number, y: number, size: number, state: number, paint: string, back: string,
): void {
  context.fillStyle = paint;
  if (state <= 2) {
    context.strokeStyle = paint;
    context.lineWidth = state === 2 ? 2 : 1;
    const inset = context.lineWidth / 2;
    context.strokeRect(x + inset, y + inset, size - 2 * inset, size - 2 * inset);
  } else if (state === 6) {
    const inset = Math.max(1, size * 0.18);
    context.fillRect(x + inset, y + inset, size - 2 * inset, size - 2 * inset);
  } else if (state === 4 || state === 12 || state === 9) {
    context.beginPath();
    context.moveTo(x, y + size);
    context.lineTo(x + size, y + size);
    context.lineTo(x + size, y);
    context.fill();
  } else {
    context.fillRect(x, y, size, size);
    if (isBad(state)) cross(context, x, y, size, back);
    if (state === 5) {
      context.fillStyle = back;
      context.fillRect(x + size * 0.38, y, size * 0.24, size);
    }
  }
}

function cross(context: CanvasRenderingContext2D, x: number, y: number, size: number, back: string): void {
  const inset = size * 0.22;
  context.strokeStyle = back;
  context.lineWidth = Math.max(1.2, size / 8);
  context.beginPath();
  context.moveTo(x + inset, y + inset);
  context.lineTo(x + size - inset, y + size - inset);
  context.moveTo(x + size - inset, y + inset);
  context.lineTo(x + inset, y + size - inset);
  context.stroke();
}
