/** Which part of the picture is shown. Pure. */

import type { Bounds } from "./layout.ts";
import type { View } from "./painter.ts";

export type Camera = { x: number; y: number; scale: number };

/** Everything, with a small margin. */
export function whole(bounds: Bounds, width: number, height: number): Camera {
  // Names of groups and regions stand above their circles.
  const scale = Math.min((width - 24) / (2 * bounds.wide), (height - 72) / (2 * bounds.tall));
  return { x: 0, y: -12 / Math.max(scale, 0.05), scale: Math.max(scale, 0.05) };
}

/** So many times larger, with the point under (`px`, `py`) staying there. */
export function zoomed(camera: Camera, factor: number, px: number, py: number, width: number, height: number): Camera {
  const scale = Math.max(0.05, Math.min(200, camera.scale * factor));
  const [wx, wy] = toWorld(camera, px, py, width, height);
  return { x: wx - (px - width / 2) / scale, y: wy - (py - height / 2) / scale, scale };
}

export function moved(camera: Camera, dx: number, dy: number): Camera {
  return { ...camera, x: camera.x - dx / camera.scale, y: camera.y - dy / camera.scale };
}

export function toWorld(camera: Camera, px: number, py: number, width: number, height: number): [number, number] {
  return [camera.x + (px - width / 2) / camera.scale, camera.y + (py - height / 2) / camera.scale];
}

export function toScreen(camera: Camera, x: number, y: number, width: number, height: number): [number, number] {
  return [(x - camera.x) * camera.scale + width / 2, (y - camera.y) * camera.scale + height / 2];
}

export function viewOf(camera: Camera, width: number, height: number, ratio: number): View {
  return { ...camera, width, height, ratio };
}
