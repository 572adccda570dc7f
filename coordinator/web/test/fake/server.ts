/** A coordinator that answers as docs/http-api.md says, errors included, for the page's tests. */

import { createServer } from "node:http";
import type { IncomingMessage, Server, ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { gzipSync } from "node:zlib";
import { readFileSync } from "node:fs";
import path from "node:path";
import type { QueueEntry, Refusal, RunEntry, RunEvent, WorkerStatus } from "../../src/api/types.ts";
import { artifactsOf, eventsOf, forList, gridOf, logsOf, Refused } from "./answers.ts";
import { allRuns, COMPOSITION, INFO, queueEntries, workerList } from "./data.ts";
import type { FakeRun } from "./data.ts";

const HEADERS = {
  "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; worker-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
  "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer",
  "Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Resource-Policy": "same-origin",
};

type Asset = { path: string; type: string; sha256: string; immutable: boolean };
type Listener = { response: ServerResponse; topics: string[] };

export class FakeCoordinator {
  readonly runs: Map<string, FakeRun> = allRuns();
  queue: QueueEntry[] = queueEntries();
  workers: WorkerStatus[] = workerList();
  /** The token that is wanted, when one is. */
  token: string | null = null;
  scopes = INFO.scopes;
  /** Whether `/compare` can be answered. */
  compares = false;
  /** Every request as `METHOD path`. */
  readonly asked: string[] = [];
  private server: Server;
  private listeners: Listener[] = [];
  private epoch = "5c1e90b2";
  private sequence = 0;
  private readonly assets: Map<string, Asset>;
  private port = 0;

  constructor(private readonly dist: string) {
    const list = JSON.parse(readFileSync(path.join(dist, "assets.json"), "utf8")) as { files: Asset[] };
    this.assets = new Map(list.files.map((file) => [`/${file.path}`, file]));
    this.server = this.make();
  }

  private make(): Server {
    return createServer((request, response) => {
      this.handle(request, response).catch((error: unknown) => this.refuse(response, error));
    });
  }

  get url(): string {
    return `http://127.0.0.1:${this.port}`;
  }

  async start(): Promise<void> {
    if (!this.server.listening) this.server = this.make();
    await new Promise<void>((done) => this.server.listen(this.port, "127.0.0.1", done));
    this.port = (this.server.address() as AddressInfo).port;
  }

  /** Goes away as a server that is killed. */
  async stop(): Promise<void> {
    this.listeners = [];
    this.server.closeAllConnections();
    await new Promise<void>((done) => this.server.close(() => done()));
    this.epoch = (Number.parseInt(this.epoch, 16) + 1).toString(16).padStart(8, "0");
    this.sequence = 0;
  }

  /** Tells everyone who wants the topic. */
  tell(topic: string, event: string, data: unknown): void {
    this.sequence += 1;
    for (const listener of this.listeners.filter((one) => one.topics.includes(topic))) this.send(listener.response, event, data);
  }

  /** Waits until somebody listens to a topic. */
  async wanted(topic: string): Promise<void> {
    for (let tries = 0; tries < 1000; tries += 1) {
      if (this.listeners.some((one) => one.topics.includes(topic))) return;
      await new Promise((done) => setTimeout(done, 20));
    }
    throw new Error(`nobody wants ${topic}`);
  }

  private send(response: ServerResponse, event: string, data: unknown): void {
    response.write(`id: ${this.epoch}.${this.sequence}\nevent: ${event}\ndata: ${JSON.stringify(data)}\n\n`);
  }

  /** Events that have just happened to a run. */
  happen(id: string, events: RunEvent[]): void {
    const run = this.runs.get(id)!;
    this.tell(`run:${id}`, "events", { run: id, from: run.events.length, events });
    run.events.push(...events);
  }

  /** Gives instances of a run other states. */
  change(id: string, changes: [number, number, number][]): void {
    const run = this.runs.get(id)!;
    for (const [first, count, state] of changes) run.states.fill(state, first, first + count);
    run.revision += 1;
    this.tell(`grid:${id}`, "grid_change", { run: id, at_ms: 93_120, before: run.revision - 1, revision: run.revision, changes });
  }

  /** Changes the status of a run. */
  update(id: string, changes: Partial<RunEntry["status"]>): void {
    const { entry } = this.runs.get(id)!;
    entry.status = { ...entry.status, ...changes, revision: entry.status.revision + 1 };
    this.tell("runs", "run", forList(entry));
    this.tell(`run:${id}`, "run_full", entry);
  }

  private async handle(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const url = new URL(request.url ?? "/", this.url);
    this.asked.push(`${request.method} ${url.pathname}${url.search}${request.headers.range ? ` ${request.headers.range}` : ""}`);
    for (const [name, value] of Object.entries(HEADERS)) response.setHeader(name, value);
    if (!url.pathname.startsWith("/api/")) return this.asset(url.pathname, request, response);
    response.setHeader("Cache-Control", "no-store");
    if (!url.pathname.startsWith("/api/v1/")) throw new Refused(404, "not_found", `nothing is at ${url.pathname}`);
    const parts = url.pathname.slice("/api/v1/".length).split("/").map(decodeURIComponent);
    this.admit(request);
    if (request.method === "POST") return this.post(parts, await body(request), request, response);
    if (request.method !== "GET" && request.method !== "HEAD") throw new Refused(405, "invalid", `${request.method} does nothing here`, "", { Allow: "GET, HEAD" });
    return this.read(parts, url.searchParams, request, response);
  }

  private admit(request: IncomingMessage): void {
    if (this.token === null) return;
    const given = request.headers.authorization;
    if (given === undefined) throw new Refused(401, "forbidden", "this coordinator wants a token", "give one: `coordinator token create`", { "WWW-Authenticate": "Bearer" });
    if (given !== `Bearer ${this.token}`) throw new Refused(401, "forbidden", "nobody knows this token, or it has ended", "", { "WWW-Authenticate": "Bearer" });
  }

  private need(scope: "cancel" | "admin"): void {
    if (!this.scopes.includes(scope) && !this.scopes.includes("admin")) throw new Refused(403, "forbidden", `the token has not got the scope \`${scope}\``);
  }

  private post(parts: string[], text: string, request: IncomingMessage, response: ServerResponse): void {
    if (request.headers["x-groundswell"] !== "1") throw new Refused(403, "forbidden", "a POST needs the header `X-Groundswell: 1`");
    const given = JSON.parse(text) as Record<string, unknown>;
    const [first, name = "", what] = parts;
    if (first === "runs" && what === "cancel") {
      this.need("cancel");
      const run = this.select(name);
      if (typeof given["kill"] !== "boolean" || typeof given["reason"] !== "string") throw new Refused(400, "invalid", "the body needs `kill` and `reason`");
      this.update(run.entry.status.run, { doing: `canceled: ${given["reason"]}`, phase: "collecting" });
      return json(response, run.entry.status, request);
    }
    if (first === "runs" && what === "priority") {
      this.need("cancel");
      const entry = this.queue.find((one) => one.run === name);
      if (!entry) throw new Refused(404, "not_found", `no run's id or name starts with \`${name}\``);
      entry.priority = given["priority"] as QueueEntry["priority"];
      this.tell("queue", "queue", this.queue);
      return json(response, { ...[...this.runs.values()][0]!.entry.status, run: name }, request);
    }
    throw new Refused(404, "not_found", `nothing is at /api/v1/${parts.join("/")}`);
  }

  private select(selector: string): FakeRun {
    const found = [...this.runs.values()].filter(({ entry: { status } }) => status.run.startsWith(selector) || status.name.startsWith(selector));
    const exact = found.find(({ entry: { status } }) => status.run === selector || status.name === selector);
    if (exact) return exact;
    if (found.length === 0) throw new Refused(404, "not_found", `no run's id or name starts with \`${selector}\``, "`coordinator ls` lists them");
    if (found.length > 1) throw new Refused(404, "not_found", `\`${selector}\` means ${found.length} runs`, "give more of the id");
    return found[0]!;
  }

  private read(parts: string[], query: URLSearchParams, request: IncomingMessage, response: ServerResponse): void {
    const [first, name, what] = parts;
    if (parts.length === 1) {
      if (first === "info") return json(response, { ...INFO, tokens_required: this.token !== null, user: this.token === null ? null : "ana", scopes: this.scopes }, request);
      if (first === "runs") return json(response, this.list(query), request);
      if (first === "queue") return json(response, this.queue, request);
      if (first === "workers") return json(response, this.workers, request);
      if (first === "events") return this.stream(query, request, response);
      if (first === "compare") return json(response, this.compare(query), request);
    }
    if (first === "runs" && name !== undefined) return this.readRun(this.select(name), what, parts.slice(3), query, request, response);
    throw new Refused(404, "not_found", `nothing is at /api/v1/${parts.join("/")}`);
  }

  private readRun(run: FakeRun, what: string | undefined, rest: string[], query: URLSearchParams, request: IncomingMessage, response: ServerResponse): void {
    const { status } = run.entry;
    const over = status.verdict !== null;
    switch (what) {
      case undefined: return json(response, run.entry, request);
      case "record": return json(response, query.get("brief") === "1" ? { ...run.record, composition: "", ends: [], network_reports: [] } : { ...run.record, ends: [], network_reports: [] }, request);
      case "composition": return text(response, COMPOSITION, request);
      case "events": return json(response, eventsOf(run, query, over), request);
      case "kpis":
        if (!run.kpis) throw new Refused(404, "not_found", `the KPIs of ${status.name} are known when it is over`);
        return json(response, run.kpis, request);
      case "network": return json(response, run.network, request);
      case "grid": return json(response, gridOf(run), request);
      case "logs": return json(response, logsOf(run, query, over), request);
      case "artifacts": return rest.length === 0 ? json(response, artifactsOf(run, query, over), request) : this.file(run, rest, request, response);
      case "replay":
        if (!run.replay) throw new Refused(404, "not_found", `${status.name} has no replay`);
        response.setHeader("Content-Type", "application/octet-stream");
        return ranged(response, run.replay, request);
      case "export.html": return this.exported(run, response);
      default: throw new Refused(404, "not_found", `a run has no \`${what}\``);
    }
  }

  private list(query: URLSearchParams): unknown {
    const known = ["limit", "before", "plan", "case", "user", "branch", "commit", "phase", "verdict", "q"];
    for (const key of query.keys()) if (!known.includes(key)) throw new Refused(400, "invalid", `there is no parameter \`${key}\``);
    const limit = Number(query.get("limit") ?? 100);
    if (!Number.isInteger(limit) || limit < 1 || limit > 500) throw new Refused(400, "invalid", `\`limit\` is 1 to 500, not \`${query.get("limit")}\``);
    const is = (key: string, value: string) => query.get(key) === null || query.get(key) === value;
    const fit = [...this.runs.values()].map((run) => run.entry).filter(({ status, source }) => {
      const q = (query.get("q") ?? "").toLowerCase();
      const texts = [status.run, status.name, status.plan, status.case, status.user, source.branch, source.commit];
      const verdicts = query.get("verdict")?.split(",");
      return is("plan", status.plan) && is("case", status.case) && is("user", status.user) && is("branch", source.branch) &&
        source.commit.startsWith(query.get("commit") ?? "") && (!verdicts || verdicts.includes(status.verdict ?? "none")) &&
        (query.get("phase")?.split(",").includes(status.phase) ?? true) &&
        (query.get("before") === null || status.run < query.get("before")!) && texts.some((one) => one.toLowerCase().includes(q));
    });
    return { runs: fit.slice(0, limit).map(forList), more: fit.length > limit };
  }

  private stream(query: URLSearchParams, request: IncomingMessage, response: ServerResponse): void {
    const topics = (query.get("topics") ?? "").split(",").map((topic) => {
      const [kind = "", name, ...rest] = topic.split(":");
      if (["runs", "workers", "queue"].includes(kind) && name === undefined) return topic;
      if (["run", "grid", "logs"].includes(kind) && name) return [kind, this.select(name).entry.status.run, ...rest].join(":");
      throw new Refused(400, "invalid", `there is no topic \`${topic}\``);
    });
    if (topics.length > 16) throw new Refused(400, "invalid", "at most 16 topics");
    response.writeHead(200, { "Content-Type": "text/event-stream" });
    response.write("retry: 300\n\n");
    const listener = { response, topics };
    this.listeners.push(listener);
    request.on("close", () => (this.listeners = this.listeners.filter((one) => one !== listener)));
    this.send(response, "hello", { api: 1, epoch: this.epoch, topics, resumed: false });
    for (const topic of topics) this.full(topic, response);
  }

  private full(topic: string, response: ServerResponse): void {
    const [kind, id = ""] = topic.split(":");
    if (kind === "runs") this.send(response, "runs", this.list(new URLSearchParams()));
    if (kind === "workers") this.send(response, "workers", this.workers);
    if (kind === "queue") this.send(response, "queue", this.queue);
    if (kind === "run") {
      const run = this.runs.get(id)!;
      this.send(response, "run_full", run.entry);
      this.send(response, "events", { run: id, from: run.events.length, events: [] });
    }
    if (kind === "grid") this.send(response, "grid", gridOf(this.runs.get(id)!));
  }

  private compare(query: URLSearchParams): unknown {
    if (!this.compares) throw new Refused(404, "not_found", "this coordinator does not compare yet");
    const side = (key: string) => (query.get(key) ?? "").split(",").map((name) => forList(this.select(name).entry));
    return {
      a: side("a"), b: side("b"), left_out: [], design: "5 v 5, exact Mann-Whitney, Holm over 2 KPIs",
      rows: [
        { name: "time_to_find", unit: "s", stat: "p95", better: "lower", a: [0.37, 0.371], b: [0.411, 0.412], shift: 0.04, low: 0.022, high: 0.058, p: 0.016, effect: 1, verdict: "regression", text: "slower by 11 %, limit 3 %" },
        { name: "bytes_sent", unit: "B", stat: "mean", better: null, a: [21000], b: [18400], shift: -2600, low: -3000, high: -2100, p: 0.016, effect: -1, verdict: "changed", text: "no direction is the good one" },
      ],
    };
  }

  private file(run: FakeRun, [group = "", number = "", ...rest]: string[], request: IncomingMessage, response: ServerResponse): void {
    const found = run.files.find((file) => file.group === group && file.in_group === Number(number) && file.path === rest.join("/"));
    if (!found) throw new Refused(404, "not_found", `there is no file \`${group}/${number}/${rest.join("/")}\``);
    response.setHeader("Content-Type", "application/octet-stream");
    response.setHeader("Content-Disposition", "attachment");
    ranged(response, Buffer.alloc(found.size, "x"), request);
  }

  private exported(run: FakeRun, response: ServerResponse): void {
    response.removeHeader("Content-Security-Policy");
    const { run: id, name } = run.entry.status;
    response.setHeader("Content-Type", "text/html; charset=utf-8");
    response.setHeader("Content-Disposition", `attachment; filename="${name}.html"`);
    const base = `/runs/${id}`;
    const query = new URLSearchParams({ limit: "5000" });
    const answers: Record<string, string> = {};
    const put = (key: string, value: unknown) => (answers[key] = Buffer.from(JSON.stringify(value)).toString("base64"));
    put(base, run.entry);
    put(`${base}/record?brief=1`, run.record);
    put(`${base}/events`, eventsOf(run, query, true));
    put(`${base}/network`, run.network);
    put(`${base}/grid`, gridOf(run));
    put(`${base}/logs`, logsOf(run, query, true));
    put(`${base}/artifacts`, artifactsOf(run, new URLSearchParams({ limit: "2000" }), true));
    if (run.kpis) put(`${base}/kpis`, run.kpis);
    answers[`${base}/composition`] = Buffer.from(COMPOSITION).toString("base64");
    if (run.replay) answers[`${base}/replay`] = run.replay.toString("base64");
    const data = gzipSync(JSON.stringify({ v: 1, run: id, made_ms: 1_790_000_000_000, version: "0.1.0", answers })).toString("base64");
    response.end(readFileSync(path.join(this.dist, "export.html"), "utf8").replace("@@GROUNDSWELL_DATA@@", () => data));
  }

  private asset(name: string, request: IncomingMessage, response: ServerResponse): void {
    const known = this.assets.get(name) ?? (name.startsWith("/assets/") ? undefined : this.assets.get("/index.html"));
    if (!known) {
      response.writeHead(404).end();
      return;
    }
    response.setHeader("ETag", `"${known.sha256}"`);
    response.setHeader("Cache-Control", known.immutable ? "public, max-age=31536000, immutable" : "no-cache");
    if (request.headers["if-none-match"] === `"${known.sha256}"`) {
      response.writeHead(304).end();
      return;
    }
    response.setHeader("Content-Type", known.type);
    response.setHeader("Content-Encoding", "gzip");
    response.end(gzipSync(readFileSync(path.join(this.dist, known.path))));
  }

  private refuse(response: ServerResponse, error: unknown): void {
    if (response.headersSent) {
      response.end();
      return;
    }
    const refused = error instanceof Refused ? error : new Refused(500, "unavailable", String(error));
    const refusal: Refusal = { kind: refused.kind, message: refused.message, help: refused.help };
    response.writeHead(refused.status, { "Content-Type": "application/json", ...refused.headers }).end(JSON.stringify(refusal));
  }
}

function ranged(response: ServerResponse, content: Buffer, request: IncomingMessage): void {
  const total = content.length;
  const match = /^bytes=(\d*)-(\d*)$/.exec(request.headers.range ?? "");
  if (!match) {
    response.end(content);
    return;
  }
  const suffix = match[1] === "";
  const from = suffix ? Math.max(0, total - Number(match[2])) : Number(match[1]);
  const to = suffix || match[2] === "" ? total : Math.min(total, Number(match[2]) + 1);
  if (from >= total) throw new Refused(416, "invalid", "the range is outside", "", { "Content-Range": `bytes */${total}` });
  response.writeHead(206, { "Content-Range": `bytes ${from}-${to - 1}/${total}`, "Content-Length": to - from }).end(content.subarray(from, to));
}

function json(response: ServerResponse, value: unknown, request: IncomingMessage): void {
  response.setHeader("Content-Type", "application/json");
  packed(response, JSON.stringify(value), request);
}

function text(response: ServerResponse, value: string, request: IncomingMessage): void {
  response.setHeader("Content-Type", "text/plain; charset=utf-8");
  packed(response, value, request);
}

function packed(response: ServerResponse, value: string, request: IncomingMessage): void {
  if (!String(request.headers["accept-encoding"]).includes("gzip")) {
    response.end(value);
    return;
  }
  response.setHeader("Content-Encoding", "gzip");
  response.end(gzipSync(value));
}

async function body(request: IncomingMessage): Promise<string> {
  const parts: Buffer[] = [];
  for await (const part of request) parts.push(part as Buffer);
  return Buffer.concat(parts).toString("utf8");
}


