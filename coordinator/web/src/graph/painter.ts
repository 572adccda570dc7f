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

/** `forced` takes WebGL also where the processor draws it: `draw=webgl` in the address. */
export function makePainter(canvas: HTMLCanvasElement, palette: Palette, forced: boolean): Painter {
  if (hasGl(palette, forced)) {
    const gl = canvas.getContext("webgl2", GL);
    const painter = gl ? GlPainter.make(gl, palette) : null;
    if (painter) return painter;
  }
  // This keeps the canvas out of a graphics card that there is not.
  const plain = canvas.getContext("2d", { alpha: false, willReadFrequently: true });
  if (!plain) throw new Error("this browser draws on no canvas");
  return new CanvasPainter(plain, palette);
}

const GL: WebGLContextAttributes = { antialias: false, alpha: false, powerPreference: "high-performance" };
/** Renderers without a graphics card: slower than a plain canvas, 44 against 58 frames/s for 10,000 instances on two cores. */
const BY_PROCESSOR = /swiftshader|llvmpipe|softpipe|basic render|software/i;

/**
 * Whether WebGL works here. A canvas that was asked for WebGL gives no plain context any more, even when it has none to
 * give, so another canvas is asked.
 */
function hasGl(palette: Palette, forced: boolean): boolean {
  const gl = document.createElement("canvas").getContext("webgl2", GL);
  const painter = gl && !gl.isContextLost() ? GlPainter.make(gl, palette) : null;
  if (!gl || !painter) return false;
  const names = gl.getExtension("WEBGL_debug_renderer_info");
  const renderer = String(names ? gl.getParameter(names.UNMASKED_RENDERER_WEBGL) : gl.getParameter(gl.RENDERER));
  painter.close();
  return forced || !BY_PROCESSOR.test(renderer);
}

/** Pixels across an instance in a view: it grows slower than the picture, and never disappears. */
export function nodeSize(view: View): number {
  return Math.max(2, Math.min(26, view.scale * 0.62 + 1));
}

/** How much larger one that sends this much is drawn. */
export function growth(code: number): number {
  return code < 60 ? 1 : 1 + Math.min(0.7, (code - 60) / 200);
}
