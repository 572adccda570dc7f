/** The picture of the network: draws the moment, and is moved with mouse, fingers and keys. */

import { useSignal } from "@preact/signals";
import { useEffect, useMemo, useRef } from "preact/hooks";
import { bps } from "../format.ts";
import { rateOf } from "../replay/format.ts";
import { place } from "../route.ts";
import { locate, STATES } from "../state/reduce.ts";
import { palette } from "../ui/palette.ts";
import { dark } from "../ui/theme.ts";
import { useSize } from "../ui/width.ts";
import { moved, toScreen, toWorld, viewOf, whole, zoomed } from "./camera.ts";
import type { Camera } from "./camera.ts";
import { edgesOf } from "./edges.ts";
import type { EdgeMode } from "./edges.ts";
import { nearest } from "./layout.ts";
import type { Layout } from "./layout.ts";
import type { Moment } from "./moment.ts";
import { makePainter } from "./painter.ts";
import type { Painter } from "./painter.ts";

export type StageProps = {
  layout: Layout; moment: Moment; groups: [string, number][]; channels: string[];
  edges: EdgeMode; only: ReadonlySet<number> | null; selected: number | null;
  select: (instance: number | null) => void; keys: (event: KeyboardEvent) => void;
};

const NO_BYTES = new Uint8Array();

export function Stage(props: StageProps) {
  const [box, size] = useSize();
  const canvas = useRef<HTMLCanvasElement>(null);
  const hovered = useSignal<number | null>(null);
  const drawer = useDrawer(props, canvas, size);
  const { camera } = drawer;
  const zoom = (factor: number, x = size.width / 2, y = size.height / 2) => drawer.look(zoomed(camera.current, factor, x, y, size.width, size.height));
  const keys = (event: KeyboardEvent) => {
    const steps: Record<string, [number, number]> = { ArrowLeft: [60, 0], ArrowRight: [-60, 0], ArrowUp: [0, 60], ArrowDown: [0, -60] };
    const step = steps[event.key];
    if (step) drawer.look(moved(camera.current, ...step));
    else if (event.key === "+" || event.key === "=") zoom(1.3);
    else if (event.key === "-") zoom(1 / 1.3);
    else if (event.key === "0") drawer.fit();
    else {
      props.keys(event);
      return;
    }
    event.preventDefault();
  };
  const drag = useDrag(drawer, zoom, (x, y) => {
    const found = pick(props.layout, camera.current, x, y, size);
    props.select(found);
  });
  return (
    <div ref={box} class="stage" tabIndex={0} role="application" onKeyDown={keys}
      aria-label="The network. Arrow keys move the picture, plus and minus zoom, 0 shows all, space plays, comma and point step through time, n goes to the next event">
      <canvas ref={canvas} {...drag} onPointerLeave={() => (hovered.value = null)}
        onMouseMove={(event) => (hovered.value = pick(props.layout, camera.current, event.offsetX, event.offsetY, size))}
        onWheel={(event) => {
          event.preventDefault();
          zoom(Math.exp(-event.deltaY / 400), event.offsetX, event.offsetY);
        }} />
      <Labels layout={props.layout} drawer={drawer} size={size} />
      {hovered.value !== null && <Tip {...props} instance={hovered.value} camera={camera.current} size={size} />}
      <div class="corner">
        <button type="button" aria-label="Zoom in" onClick={() => zoom(1.4)}>+</button>
        <button type="button" aria-label="Zoom out" onClick={() => zoom(1 / 1.4)}>−</button>
        <button type="button" aria-label="Show all" onClick={drawer.fit}>⤢</button>
      </div>
      <span ref={drawer.rate} class="rate" aria-hidden="true" />
    </div>
  );
}

type Size = { width: number; height: number };
type Drawer = ReturnType<typeof useDrawer>;

/** Draws a frame whenever something has changed, and moves time while it plays. */
function useDrawer(props: StageProps, canvas: { current: HTMLCanvasElement | null }, size: Size) {
  const camera = useRef<Camera>({ x: 0, y: 0, scale: 1 });
  const looked = useSignal(0);
  const touched = useRef(true);
  const painter = useRef<Painter | null>(null);
  const rate = useRef<HTMLSpanElement>(null);
  const latest = useRef({ props, size });
  latest.current = { props, size };
  touched.current = true;
  const isDark = dark.value;
  const look = (next: Camera) => {
    camera.current = next;
    touched.current = true;
    looked.value += 1;
  };
  const fit = () => look(whole(props.layout.bounds, size.width, size.height));
  useEffect(() => {
    if (!canvas.current) return undefined;
    const made = makePainter(canvas.current, palette(), place.peek().query.get("draw") === "webgl");
    painter.current = made;
    canvas.current.dataset["painter"] = made.kind;
    return () => made.close();
  }, []);
  useEffect(() => painter.current?.setPalette(palette()), [isDark]);
  useEffect(() => {
    painter.current?.setPositions(props.layout.positions);
    fit();
  }, [props.layout, size.width, size.height]);
  useEffect(() => loop(latest, painter, camera, touched, canvas, rate), []);
  return { camera, looked, look, fit, rate };
}

function loop(
  latest: { current: { props: StageProps; size: Size } }, painter: { current: Painter | null },
  camera: { current: Camera }, touched: { current: boolean }, canvas: { current: HTMLCanvasElement | null },
  rate: { current: HTMLSpanElement | null },
): () => void {
  let handle = 0;
  let before = performance.now();
  let changes = -1;
  let edges = { block: null as object | null, mode: "", selected: null as number | null, drawn: null as ReturnType<typeof edgesOf> };
  let frames = 0;
  let since = before;
  const frame = (now: number) => {
    handle = requestAnimationFrame(frame);
    const { props, size } = latest.current;
    const { moment } = props;
    moment.tick(Math.min(250, now - before));
    before = now;
    const { player } = moment;
    const playing = moment.playing.peek();
    if (!player || !painter.current || !canvas.current || size.width === 0) return;
    if (changes === moment.changes.peek() && !touched.current && !playing) return;
    changes = moment.changes.peek();
    touched.current = false;
    if (edges.block !== player.block || edges.mode !== props.edges || edges.selected !== props.selected) {
      edges = { block: player.block, mode: props.edges, selected: props.selected, drawn: edgesOf(player.block, props.edges, props.selected) };
    }
    const ratio = Math.min(2, devicePixelRatio);
    fitCanvas(canvas.current, size, ratio);
    const sent = props.channels.indexOf("sent");
    painter.current.draw(viewOf(camera.current, size.width, size.height, ratio), {
      states: player.channel(0), sent: sent > 0 ? player.channel(sent) : NO_BYTES,
      edges: edges.drawn, only: props.only, selected: props.selected,
    });
    frames += 1;
    if (now - since >= 1000) {
      const shown = Math.round((frames * 1000) / (now - since));
      if (rate.current) rate.current.textContent = playing ? `${shown} frames/s` : "";
      canvas.current.dataset["frames"] = String(shown);
      frames = 0;
      since = now;
    }
  };
  handle = requestAnimationFrame(frame);
  return () => cancelAnimationFrame(handle);
}

function fitCanvas(canvas: HTMLCanvasElement, size: Size, ratio: number): void {
  const [width, height] = [Math.round(size.width * ratio), Math.round(size.height * ratio)];
  if (canvas.width !== width) canvas.width = width;
  if (canvas.height !== height) canvas.height = height;
}

/** Names of regions and groups that are large enough to have one. */
function Labels({ layout, drawer, size }: { layout: Layout; drawer: Drawer; size: Size }) {
  void drawer.looked.value;
  const camera = drawer.camera.current;
  const labels = useMemo(() => [
    ...layout.regions.map((circle) => ({ ...circle, region: true })), ...layout.groups.map((circle) => ({ ...circle, region: false })),
  ], [layout]);
  const least = layout.groups.length > 40 ? 26 : 10;
  return (
    <>
      {labels.map((label, at) => {
        const [x, y] = toScreen(camera, label.x, label.y - label.r, size.width, size.height);
        if (label.r * camera.scale < least || x < 0 || x > size.width || y < -10 || y > size.height) return null;
        const top = Math.max(18, label.region ? y - 4 : y + 8);
        return <span key={at} aria-hidden="true" class={label.region ? "label region" : "label"} style={{ transform: `translate(${x}px, ${top}px) translate(-50%, -100%)` }}>{label.label}</span>;
      })}
    </>
  );
}

function Tip(props: StageProps & { instance: number; camera: Camera; size: Size }) {
  const { instance, layout, camera, size, moment } = props;
  void moment.changes.value;
  const [x, y] = toScreen(camera, layout.positions[instance * 2]!, layout.positions[instance * 2 + 1]!, size.width, size.height);
  const flip = x > size.width - 220;
  return <span class="tip" style={{ transform: `translate(${x + (flip ? -12 : 12)}px, ${y + 10}px) translateX(${flip ? "-100%" : "0"})` }}>{describe(props, instance)}</span>;
}

/** An instance at the moment, in words. */
export function describe(props: Pick<StageProps, "groups" | "channels" | "moment">, instance: number): string {
  const where = locate(props.groups, instance);
  const { player } = props.moment;
  const parts = [where ? `${where.group}[${where.inGroup}]` : String(instance)];
  if (player) {
    parts.push(STATES[player.channel(0)[instance] ?? 0] ?? "unknown");
    props.channels.forEach((name, number) => {
      if (name === "sent" || name === "received") parts.push(`${name} ${bps(rateOf(player.channel(number)[instance] ?? 0))}`);
    });
  }
  return parts.join(" · ");
}

function pick(layout: Layout, camera: Camera, x: number, y: number, size: Size): number | null {
  const [wx, wy] = toWorld(camera, x, y, size.width, size.height);
  return nearest(layout.positions, wx, wy, Math.max(0.5, 9 / camera.scale));
}

/** Moves the picture with one pointer, zooms with two; a press that does not move chooses. */
function useDrag(drawer: Drawer, zoom: (factor: number, x: number, y: number) => void, choose: (x: number, y: number) => void) {
  const pointers = useRef(new Map<number, { x: number; y: number }>());
  const far = useRef(0);
  const onPointerDown = (event: PointerEvent) => {
    (event.currentTarget as HTMLElement).setPointerCapture(event.pointerId);
    pointers.current.set(event.pointerId, { x: event.offsetX, y: event.offsetY });
    far.current = 0;
  };
  const onPointerMove = (event: PointerEvent) => {
    const before = pointers.current.get(event.pointerId);
    if (!before) return;
    const now = { x: event.offsetX, y: event.offsetY };
    const other = [...pointers.current].find(([id]) => id !== event.pointerId)?.[1];
    far.current += Math.hypot(now.x - before.x, now.y - before.y);
    if (other) {
      const apart = (one: { x: number; y: number }) => Math.max(1, Math.hypot(one.x - other.x, one.y - other.y));
      zoom(apart(now) / apart(before), other.x, other.y);
    } else drawer.look(moved(drawer.camera.current, now.x - before.x, now.y - before.y));
    pointers.current.set(event.pointerId, now);
  };
  const onPointerUp = (event: PointerEvent) => {
    const known = pointers.current.delete(event.pointerId);
    if (known && far.current < 5 && pointers.current.size === 0) choose(event.offsetX, event.offsetY);
  };
  return { onPointerDown, onPointerMove, onPointerUp, onPointerCancel: onPointerUp };
}
