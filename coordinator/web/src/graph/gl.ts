/** Draws with WebGL2: one call for all instances, one for all edges. */

import type { Palette } from "../ui/palette.ts";
import { nodeSize } from "./painter.ts";
import type { Edges, Painter, Scene, View } from "./painter.ts";

const STATES = 13;

const NODE_VERTEX = `#version 300 es
in vec2 position; in uint state; in uint sent;
uniform vec2 middle; uniform vec2 scale; uniform float size; uniform uint only; uniform int chosen;
out float faded; flat out uint shape; flat out int marked;
void main() {
  gl_Position = vec4((position - middle) * scale, 0.0, 1.0);
  shape = state;
  faded = (only & (1u << state)) == 0u ? 0.16 : 1.0;
  marked = gl_VertexID == chosen ? 1 : 0;
  float grown = sent < 60u ? 1.0 : 1.0 + min(0.7, (float(sent) - 60.0) / 200.0);
  bool bad = state == 7u || state == 8u || state == 10u || state == 11u;
  gl_PointSize = size * (bad ? 1.5 : grown) * (marked == 1 ? 2.0 : 1.0);
}`;

// The shape says what the colour says: rings wait, discs run, crosses failed, squares ended otherwise.
const NODE_FRAGMENT = `#version 300 es
precision highp float;
uniform vec3 palette[${STATES}]; uniform vec3 mark; uniform float size;
in float faded; flat in uint shape; flat in int marked;
out vec4 color;
void main() {
  vec2 at = gl_PointCoord * 2.0 - 1.0;
  float far = dot(at, at);
  vec3 paint = palette[min(shape, ${STATES - 1}u)];
  if (marked == 1) {
    if (far > 1.0) discard;
    color = vec4(far > 0.55 ? mark : paint, 1.0);
    return;
  }
  if (size > 3.5) {
    vec2 a = abs(at);
    if (shape <= 2u) { if (far > 1.0 || far < 0.36) discard; }
    else if (shape == 7u || shape == 8u || shape == 10u || shape == 11u) {
      if (abs(a.x - a.y) > 0.42) discard;
    } else if (shape == 5u) { if (a.x < 0.25 || max(a.x, a.y) > 0.85) discard; }
    else if (shape == 4u || shape == 12u || shape == 9u) { if (a.x + a.y > 1.0) discard; }
    else if (far > 1.0) discard;
  }
  color = vec4(paint, faded);
}`;

const EDGE_VERTEX = `#version 300 es
in vec2 position; in float strength;
uniform vec2 middle; uniform vec2 scale;
out float alpha;
void main() { gl_Position = vec4((position - middle) * scale, 0.0, 1.0); alpha = strength; }`;

const EDGE_FRAGMENT = `#version 300 es
precision highp float;
uniform vec3 paint; in float alpha; out vec4 color;
void main() { color = vec4(paint, alpha); }`;

export class GlPainter implements Painter {
  readonly kind = "webgl";
  private positions: Float32Array = new Float32Array();
  private readonly at: WebGLBuffer;
  private readonly state: WebGLBuffer;
  private readonly sent: WebGLBuffer;
  private readonly lines: WebGLBuffer;
  private readonly nodes: WebGLVertexArrayObject;
  private readonly edges: WebGLVertexArrayObject;
  private drawnEdges: Edges | null = null;
  private edgeVertices = 0;
  private zeros: Uint8Array = new Uint8Array();
  private lost = false;
  private readonly onLost = (event: Event) => {
    event.preventDefault();
    this.lost = true;
  };

  private constructor(
    private readonly gl: WebGL2RenderingContext,
    private readonly node: WebGLProgram,
    private readonly edge: WebGLProgram,
    private palette: Palette,
  ) {
    this.at = gl.createBuffer();
    this.state = gl.createBuffer();
    this.sent = gl.createBuffer();
    this.lines = gl.createBuffer();
    this.nodes = gl.createVertexArray();
    this.edges = gl.createVertexArray();
    this.describe();
    gl.enable(gl.BLEND);
    gl.blendFunc(gl.SRC_ALPHA, gl.ONE_MINUS_SRC_ALPHA);
    gl.canvas.addEventListener("webglcontextlost", this.onLost);
  }

  /** Null when the programs cannot be made. */
  static make(gl: WebGL2RenderingContext, palette: Palette): GlPainter | null {
    const node = program(gl, NODE_VERTEX, NODE_FRAGMENT);
    const edge = program(gl, EDGE_VERTEX, EDGE_FRAGMENT);
    return node && edge ? new GlPainter(gl, node, edge, palette) : null;
  }

  private describe(): void {
    const { gl } = this;
    gl.bindVertexArray(this.nodes);
    float(gl, this.node, "position", this.at, 2, 0, 0);
    byte(gl, this.node, "state", this.state);
    byte(gl, this.node, "sent", this.sent);
    gl.bindVertexArray(this.edges);
    float(gl, this.edge, "position", this.lines, 2, 12, 0);
    float(gl, this.edge, "strength", this.lines, 1, 12, 8);
    gl.bindVertexArray(null);
  }

  setPalette(palette: Palette): void {
    this.palette = palette;
  }

  setPositions(positions: Float32Array): void {
    this.positions = positions;
    this.zeros = new Uint8Array(positions.length / 2);
    this.drawnEdges = null;
    this.gl.bindBuffer(this.gl.ARRAY_BUFFER, this.at);
    this.gl.bufferData(this.gl.ARRAY_BUFFER, positions, this.gl.STATIC_DRAW);
  }

  draw(view: View, scene: Scene): void {
    const { gl } = this;
    if (this.lost) return;
    gl.viewport(0, 0, gl.drawingBufferWidth, gl.drawingBufferHeight);
    const [red, green, blue] = this.palette.back;
    gl.clearColor(red / 255, green / 255, blue / 255, 1);
    gl.clear(gl.COLOR_BUFFER_BIT);
    this.drawEdges(view, scene);
    this.drawNodes(view, scene);
  }

  private place(program: WebGLProgram, view: View): void {
    const { gl } = this;
    gl.useProgram(program);
    gl.uniform2f(gl.getUniformLocation(program, "middle"), view.x, view.y);
    const scale = gl.getUniformLocation(program, "scale");
    gl.uniform2f(scale, (2 * view.scale) / view.width, (-2 * view.scale) / view.height);
  }

  private drawNodes(view: View, scene: Scene): void {
    const { gl, node } = this;
    const count = this.positions.length / 2;
    gl.bindBuffer(gl.ARRAY_BUFFER, this.state);
    gl.bufferData(gl.ARRAY_BUFFER, scene.states, gl.DYNAMIC_DRAW);
    gl.bindBuffer(gl.ARRAY_BUFFER, this.sent);
    gl.bufferData(gl.ARRAY_BUFFER, scene.sent.length === count ? scene.sent : this.zeros, gl.DYNAMIC_DRAW);
    this.place(node, view);
    const size = nodeSize(view) * view.ratio;
    gl.uniform1f(gl.getUniformLocation(node, "size"), size);
    const only = scene.only === null ? 0xffffffff : [...scene.only].reduce((mask, state) => mask | (1 << state), 0);
    gl.uniform1ui(gl.getUniformLocation(node, "only"), only >>> 0);
    gl.uniform1i(gl.getUniformLocation(node, "chosen"), scene.selected ?? -1);
    const paints = this.palette.states.flatMap((paint) => paint.map((part) => part / 255));
    gl.uniform3fv(gl.getUniformLocation(node, "palette"), paints);
    gl.uniform3fv(gl.getUniformLocation(node, "mark"), this.palette.front.map((part) => part / 255));
    gl.bindVertexArray(this.nodes);
    gl.drawArrays(gl.POINTS, 0, count);
  }

  private drawEdges(view: View, scene: Scene): void {
    const { gl, edge } = this;
    if (scene.edges !== this.drawnEdges) this.takeEdges(scene.edges);
    if (this.edgeVertices === 0) return;
    this.place(edge, view);
    gl.uniform3fv(gl.getUniformLocation(edge, "paint"), this.palette.edge.map((part) => part / 255));
    gl.bindVertexArray(this.edges);
    gl.drawArrays(gl.LINES, 0, this.edgeVertices);
  }

  private takeEdges(edges: Edges | null): void {
    this.drawnEdges = edges;
    const count = edges?.from.length ?? 0;
    this.edgeVertices = count * 2;
    if (!edges) return;
    const lines = new Float32Array(count * 6);
    for (let i = 0; i < count; i += 1) {
      const strength = edgeStrength(edges.rate[i] ?? 0);
      [edges.from[i]!, edges.to[i]!].forEach((end, side) => {
        lines[i * 6 + side * 3] = this.positions[end * 2] ?? 0;
        lines[i * 6 + side * 3 + 1] = this.positions[end * 2 + 1] ?? 0;
        lines[i * 6 + side * 3 + 2] = strength;
      });
    }
    this.gl.bindBuffer(this.gl.ARRAY_BUFFER, this.lines);
    this.gl.bufferData(this.gl.ARRAY_BUFFER, lines, this.gl.STATIC_DRAW);
  }

  close(): void {
    this.gl.canvas.removeEventListener("webglcontextlost", this.onLost);
    this.gl.getExtension("WEBGL_lose_context")?.loseContext();
  }
}

/** How strong the line of a flow is. */
export function edgeStrength(code: number): number {
  return 0.12 + 0.5 * Math.min(1, code / 220);
}

function program(gl: WebGL2RenderingContext, vertex: string, fragment: string): WebGLProgram | null {
  const made = gl.createProgram();
  for (const [kind, source] of [[gl.VERTEX_SHADER, vertex], [gl.FRAGMENT_SHADER, fragment]] as const) {
    const shader = gl.createShader(kind);
    if (!shader) return null;
    gl.shaderSource(shader, source);
    gl.compileShader(shader);
    gl.attachShader(made, shader);
  }
  gl.linkProgram(made);
  return gl.getProgramParameter(made, gl.LINK_STATUS) ? made : null;
}

function float(
  gl: WebGL2RenderingContext, program: WebGLProgram, name: string, buffer: WebGLBuffer,
  size: number, stride: number, offset: number,
): void {
  const at = gl.getAttribLocation(program, name);
  gl.bindBuffer(gl.ARRAY_BUFFER, buffer);
  gl.enableVertexAttribArray(at);
  gl.vertexAttribPointer(at, size, gl.FLOAT, false, stride, offset);
}

function byte(gl: WebGL2RenderingContext, program: WebGLProgram, name: string, buffer: WebGLBuffer): void {
  const at = gl.getAttribLocation(program, name);
  gl.bindBuffer(gl.ARRAY_BUFFER, buffer);
  gl.enableVertexAttribArray(at);
  gl.vertexAttribIPointer(at, 1, gl.UNSIGNED_BYTE, 0, 0);
}
