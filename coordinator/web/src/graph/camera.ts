/** Which part of the picture is shown. Pure. */

import type { Circle } from "./layout.ts";
import type { View } from "./painter.ts";

export type Camera = { x: number; y: number; scale: number };

/** Everything, with a small margin. */
export function whole(bounds: Circle, width: number, height: number): Camera {
  return { x: bounds.x, y: bounds.y, scale: (Math.max(1, Math.min(width, height)) / (2 * bounds.r)) * 0.96 };
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
