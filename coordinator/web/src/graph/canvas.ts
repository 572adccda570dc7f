/** Draws on a plain canvas, for browsers without WebGL. */

import { isBad } from "../state/reduce.ts";
import { css } from "../ui/palette.ts";
import type { Palette } from "../ui/palette.ts";
import { edgeStrength } from "./gl.ts";
import { growth, nodeSize } from "./painter.ts";
import type { Painter, Scene, View } from "./painter.ts";

/** Edges beyond this many are left out: a plain canvas draws each by itself. */
const MOST_EDGES = 4000;

export class CanvasPainter implements Painter {
  readonly kind = "canvas";
  private positions: Float32Array = new Float32Array();
  private readonly context: CanvasRenderingContext2D;
  private palette: Palette;

  constructor(context: CanvasRenderingContext2D, palette: Palette) {
    this.context = context;
    this.palette = palette;
  }

  setPalette(palette: Palette): void {
    this.palette = palette;
  }

  setPositions(positions: Float32Array): void {
    this.positions = positions;
  }

  draw(view: View, scene: Scene): void {
    const { context } = this;
    context.setTransform(view.ratio, 0, 0, view.ratio, 0, 0);
    context.fillStyle = css(this.palette.back);
    context.fillRect(0, 0, view.width, view.height);
    const x = (at: number) => (this.positions[at * 2]! - view.x) * view.scale + view.width / 2;
    const y = (at: number) => (this.positions[at * 2 + 1]! - view.y) * view.scale + view.height / 2;
    this.drawEdges(scene, x, y);
    this.drawNodes(view, scene, x, y);
  }

  private drawEdges(scene: Scene, x: (at: number) => number, y: (at: number) => number): void {
    const { context } = this;
    const { edges } = scene;
    if (!edges) return;
    context.strokeStyle = css(this.palette.edge);
    context.lineWidth = 1;
    context.globalAlpha = edgeStrength(110);
    context.beginPath();
    for (let i = 0; i < Math.min(edges.from.length, MOST_EDGES); i += 1) {
      context.moveTo(x(edges.from[i]!), y(edges.from[i]!));
      context.lineTo(x(edges.to[i]!), y(edges.to[i]!));
    }
    context.stroke();
    context.globalAlpha = 1;
  }

  /** State by state, so that the paint changes thirteen times and not ten thousand times. */
  private drawNodes(view: View, scene: Scene, x: (at: number) => number, y: (at: number) => number): void {
    const { context } = this;
    const size = nodeSize(view);
    const byState: number[][] = this.palette.states.map(() => []);
    for (let at = 0; at < scene.states.length; at += 1) byState[scene.states[at]!]?.push(at);
    byState.forEach((members, state) => {
      context.fillStyle = css(this.palette.states[state]!);
      context.strokeStyle = context.fillStyle;
      context.globalAlpha = scene.only === null || scene.only.has(state) ? 1 : 0.16;
      for (const at of members) {
        const px = x(at);
        const py = y(at);
        if (px < -size || py < -size || px > view.width + size || py > view.height + size) continue;
        const wide = size * (isBad(state) ? 1.4 : growth(scene.sent[at] ?? 0));
        if (isBad(state) && size > 3.5) {
          context.fillRect(px - wide / 2, py - wide / 8, wide, wide / 4);
          context.fillRect(px - wide / 8, py - wide / 2, wide / 4, wide);
        } else if (state <= 2 && size > 3.5) {
          context.strokeRect(px - wide / 2 + 0.5, py - wide / 2 + 0.5, wide - 1, wide - 1);
        } else {
          context.fillRect(px - wide / 2, py - wide / 2, wide, wide);
        }
      }
    });
    context.globalAlpha = 1;
    this.mark(view, scene, x, y, size);
  }

  private mark(
    view: View, scene: Scene, x: (at: number) => number, y: (at: number) => number, size: number,
  ): void {
    if (scene.selected === null) return;
    this.context.strokeStyle = css(this.palette.front);
    this.context.lineWidth = Math.max(2, view.scale / 8);
    this.context.beginPath();
    this.context.arc(x(scene.selected), y(scene.selected), size + 3, 0, 2 * Math.PI);
    this.context.stroke();
  }

  close(): void {
    // Nothing is held.
  }
}
