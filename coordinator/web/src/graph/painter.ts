/** What draws the network: WebGL where there is one, else a plain canvas. Both draw the same scene. */

import type { Palette } from "../ui/palette.ts";
import { CanvasPainter } from "./canvas.ts";
import { GlPainter } from "./gl.ts";

/** Which part of the world is shown: its middle, and pixels per unit. In CSS pixels. */
export type View = { x: number; y: number; scale: number; width: number; height: number; ratio: number };

export type Edges = { from: Uint32Array; to: Uint32Array; rate: Uint8Array };

export type Scene = {
  /** State code of each instance. */
  states: Uint8Array;
  /** Rate code of what each sends; empty when unknown. */
  sent: Uint8Array;
  edges: Edges | null;
  /** Only instances with these states are drawn at full strength; absent is all. */
  only: ReadonlySet<number> | null;
  selected: number | null;
};

export interface Painter {
  readonly kind: "webgl" | "canvas";
  setPositions(positions: Float32Array): void;
  setPalette(palette: Palette): void;
  draw(view: View, scene: Scene): void;
  close(): void;
}

export function makePainter(canvas: HTMLCanvasElement, palette: Palette): Painter {
  const gl = canvas.getContext("webgl2", { antialias: false, alpha: false, powerPreference: "high-performance" });
  const painter = gl ? GlPainter.make(gl, palette) : null;
  if (painter) return painter;
  // A canvas that has given a WebGL context gives no other: this one never did.
  const plain = canvas.getContext("2d", { alpha: false });
  if (!plain) throw new Error("this browser draws on no canvas");
  return new CanvasPainter(plain, palette);
}

/** Pixels across an instance in a view: it grows slower than the picture, and never disappears. */
export function nodeSize(view: View): number {
  return Math.max(2, Math.min(26, view.scale * 0.62 + 1));
}

/** How much larger one that sends this much is drawn. */
export function growth(code: number): number {
  return code < 60 ? 1 : 1 + Math.min(0.7, (code - 60) / 200);
}
