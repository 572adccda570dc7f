/** What the fake coordinator knows: runs of every kind, the same every time. */

import type {
  Events, Fidelity, Grid, IndexEntry, Info, KpiFile, KpiRow, LogLine, Network, QueueEntry, RunEntry, RunEvent, RunRecord, Verdict, WorkerStatus,
} from "../../src/api/types.ts";
import type { Header } from "../../src/replay/format.ts";
import { dice, simulate, writeFile } from "./replay.ts";

/** Times count back from here, so that screenshots do not change. */
export const NOW = 1_790_000_000_000;

export const MAIN = "c8k3vmlrirtj2p8lcec0";
export const BIG = "c8k3vmlrirtj2p8lbig0";
export const LIVE = "c8k3vmlrirtj2p8llive";

export type FakeRun = {
  entry: RunEntry; events: RunEvent[]; network: Network; states: Uint8Array; placement: Grid["placement"];
  record: RunRecord; kpis: KpiFile | null; replay: Buffer | null; logs: LogLine[]; files: IndexEntry[]; revision: number;
};

const GROUPS: [string, number, string, number][] = [
  ["eu-seed", 5, "eu-west", 0], ["eu-home", 35, "eu-west", 4], ["us-seed", 5, "us-east", 0], ["us-home", 30, "us-east", 4],
  ["ap-home", 20, "ap-south", 3], ["churners", 5, "ap-south", 0],
];
const DELAYS: Record<string, number> = { "eu-west eu-west": 8, "eu-west us-east": 41, "eu-west ap-south": 85, "us-east us-east": 12, "us-east ap-south": 105, "ap-south ap-south": 18 };

const ms = (value: number) => ({ secs: Math.floor(value / 1000), nanos: Math.round((value % 1000) * 1e6) });

export function groupsFor(total: number): { id: string; instances: number; region: string; household?: number }[] {
  const sizes = GROUPS.map(([, share]) => Math.floor((total * share) / 100));
  sizes[1]! += total - sizes.reduce((sum, size) => sum + size, 0);
  return GROUPS.map(([id, , region, household], at) => ({ id, instances: sizes[at]!, region, ...(household > 0 ? { household } : {}) }));
}

function kpiRow(name: string, unit: string, middle: number, better?: "lower" | "higher", count = 4200): KpiRow {
  const stats = { sum: middle * count, mean: middle * 1.04, min: middle * 0.3, max: middle * 3.1, p50: middle, p90: middle * 1.6, p95: middle * 1.9, p99: middle * 2.5 };
  return { name, unit, count, stats, ...(better ? { better } : {}) };
}

function fidelity(network: Network, grade: Fidelity["grade"]): Fidelity {
  const late = { p50_ns: 21_000, p90_ns: 48_000, p99_ns: grade === "degraded" ? 4_200_000 : 96_000, max_ns: 1_240_000 };
  return {
    grade, reasons: grade === "degraded" ? ["99 of 100 packets were up to 4.2 ms late", "the data plane stood still 3 times, for 12 ms at most"] : [],
    packets: 12_345_678, late,
    lanes: network.shapes.map((shape, at) => ({
      what: `${(shape.latency!.secs * 1000 + shape.latency!.nanos / 1e6).toFixed(0)} ms${shape.loss_pct ? `, loss ${shape.loss_pct} %` : ""}`, shape,
      packets: 400_000 + at * 31_000, filtered: 0, overrun: at * 3, late: { ...late, p50_ns: 15_000 + at * 900, p99_ns: late.p99_ns + at * 4000 },
      loss: shape.loss_pct ? { configured: shape.loss_pct / 100, achieved: at === 2 ? 0.0131 : shape.loss_pct / 100 - 0.0002, interval: [0.0095, 0.0104] as [number, number], holds: at !== 2 } : null,
      duplication: null, corruption: null, rate: at === 1 ? { configured_bps: 20_000_000, achieved_bps: 19_998_000, off: 0.0001 } : null,
    })),
    fates: { delivered: 12_340_000, lost: 5678 }, no_memory: 0, interface_drops: 0,
    stalls: grade === "degraded" ? [["w-02", { at: ms(41_000), length: ms(12) }]] : [], stalls_total: grade === "degraded" ? 3 : 0,
    probes: { pairs: 8, sent: 4800, late: { p50_ns: 61_000, p90_ns: 120_000, p99_ns: 390_000, max_ns: 2_000_000 }, earliest_ns: 4000, loss: { configured: 0.01, achieved: 0.0098, interval: [0.0072, 0.0134], holds: true } },
    unmeasured: [],
  };
}

function networkOf(groups: ReturnType<typeof groupsFor>, grade: Fidelity["grade"] | null): Network {
  const keys: string[] = [];
  const network: Network = {
    subnet: "16.4.0.0/16", data_path: "switch", encrypt: false, shapes: [], links: [], lanes: [], schedule: [
      { at_ms: 42_000, text: "partition eu-west from ap-south" }, { at_ms: 62_000, text: "eu-west and ap-south are one network again" },
    ],
    narrative: ["kill churners (3, every 20s on average)"],
    groups: groups.map(({ id, instances, region, household }) => ({
      id, instances, region, nat: household ? [{ kind: id.startsWith("ap") ? "symmetric" : "port_restricted", members: household }] : [],
      up_bps: household ? 20_000_000 : 0, down_bps: household ? 100_000_000 : 0,
    })),
    fidelity: null,
  };
  for (const from of groups) {
    for (const to of groups) {
      const delay = DELAYS[`${from.region} ${to.region}`] ?? DELAYS[`${to.region} ${from.region}`] ?? 0;
      const key = `${delay}`;
      if (!keys.includes(key)) {
        keys.push(key);
        network.shapes.push({ latency: ms(delay), jitter: ms(delay / 20), ...(delay > 40 ? { loss_pct: 1 } : {}), bandwidth_bps: 20_000_000 });
      }
      network.links.push(keys.indexOf(key));
    }
  }
  network.lanes = network.shapes.map((_, at) => at);
  if (grade) network.fidelity = fidelity(network, grade);
  return network;
}

type Options = {
  id: string; name: string; total: number; verdict: Verdict | null; ageMin: number; reason?: string; grade?: Fidelity["grade"]; factor?: number;
  plan?: string; case?: string; commit?: string; branch?: string; user?: string; full?: boolean; seconds?: number;
};

export function makeRun(options: Options): FakeRun {
  const { id, name, total, verdict, seconds = 120 } = options;
  const random = dice(total + name.length);
  const groups = groupsFor(total);
  const submitted = NOW - options.ageMin * 60_000;
  const over = verdict !== null;
  const failed = verdict === "failed" ? Math.max(1, Math.round(total / 400)) : 0;
  const states = new Uint8Array(total).fill(over ? 6 : 3);
  const churners = groups.slice(0, 5).reduce((sum, group) => sum + group.instances, 0);
  if (over) for (let at = churners; at < churners + Math.ceil((total - churners) / 3); at += 1) states[at] = 12;
  for (let at = 0; at < failed; at += 1) states[Math.floor(random() * churners)] = 7;
  if (verdict === "canceled") states.fill(9);
  if (verdict === "timed_out") states.fill(8, Math.floor(total / 2));
  if (verdict === "infra") states.fill(11, Math.floor(total * 0.8));
  if (!over) {
    for (let at = 0; at < total; at += 1) states[at] = random() < 0.02 ? 5 : random() < 0.03 ? 2 : random() < 0.01 ? 7 : 3;
  }
  const grade = options.grade ?? "exact";
  const network = networkOf(groups, over ? grade : null);
  let first = 0;
  const counts = groups.map(({ id: group, instances }): RunEntry["status"]["groups"][number] => {
    const mine = states.subarray(first, first + instances);
    first += instances;
    const is = (...codes: number[]) => mine.filter((state) => codes.includes(state)).length;
    return [group, {
      want: instances, ready: instances, running: is(3, 4, 5), success: is(6), failure: is(7), timed_out: is(8), canceled: is(9), aborted: is(10), lost: is(11), killed: is(12),
    }];
  });
  const kpis = over ? kpiRows(options.factor ?? 1) : [];
  const judgement = {
    expectations: over ? [
      { name: "time_to_find.p95", what: "p95 of time_to_find", wanted: "< 500 ms", got: verdict === "failed" ? "612 ms" : "412 ms", value: 0.412, state: verdict === "failed" ? "broken" as const : "kept" as const },
      { name: "in time", what: "max of time_to_find of each group", wanted: "<= 30 s", got: "1.34 s", value: 1.34, state: "kept" as const },
      { name: "errors per dial", what: "sum of errors per dials", wanted: "<= 0.02", got: "the links of this composition are slower", state: "off" as const },
    ] : [],
    gates: over ? [{ name: "host_busy", wanted: "<= 0.85", got: "0.61 on w-02", state: "kept" as const }, { name: "loop_lag_s", wanted: "<= 50 ms", got: "nobody measured it", state: "unmeasured" as const }] : [],
    kpis, series: 24, left_out: 0, strict: false,
  };
  const workers = ["w-01", "w-02", "w-03"];
  const badOnes = [...states.keys()].filter((at) => states[at] === 7 || states[at] === 11).slice(0, 8);
  const status: RunEntry["status"] = {
    run: id, name, revision: 40, plan: options.plan ?? "dht", case: options.case ?? "find-providers", user: options.user ?? "ana",
    phase: over ? "cleaned" : "running", doing: over ? "" : "instances run", submitted_ms: submitted, started_ms: submitted + 31_000,
    finished_ms: over ? submitted + 31_000 + seconds * 1000 : null, groups: counts, workers, verdict,
    reason: options.reason ?? (verdict === "failed" ? `${failed} of ${total} instances failed, first eu-home[3]: peer table poisoned` : ""),
    warnings: over ? ["limits of open files cannot be enforced on w-03"] : [],
    failures: badOnes.map((instance) => {
      const where = locateIn(groups, instance);
      return [instance, where.group, where.inGroup, {
        outcome: states[instance] === 11 ? "lost" : "failure", reason: states[instance] === 11 ? "its worker w-03 was lost" : `panic at swarm.rs:88: peer table poisoned at 0x7f3a${instance}`,
        exit: { code: states[instance] === 11 ? null : 101, signal: null, oom_killed: false }, last_lines: ["dialing 3 peers", "thread 'main' panicked at swarm.rs:88:", "peer table poisoned"],
      }];
    }),
    network: network.fidelity, judgement,
  };
  const per = Math.ceil(total / 3);
  const placement = workers.map((worker, at): Grid["placement"][number] => [worker, [{ group: 0, first: at * per, first_in_group: 0, count: Math.min(per, total - at * per) }]]);
  const source = { repo: "git@example.org:p2p/dht.git", branch: options.branch ?? "main", commit: options.commit ?? "3f0be1a9c2d4e5f60718293a4b5c6d7e8f901234", dirty: false };
  const header: Header = { run: id, name, submitted_ms: submitted, instances: total, groups, channels: ["state", "sent"] };
  return {
    entry: { status, source }, network, states, placement, revision: 1,
    events: eventsOf(groups, seconds, over, verdict),
    record: recordOf(status, source, groups, placement),
    kpis: over ? kpiFile(id, kpis, judgement, groups.map((group) => group.id), options.factor ?? 1) : null,
    replay: options.full ? writeFile(header, simulate(header, seconds), over) : null,
    logs: logsOf(groups, options.full ? 3000 : 200), files: filesOf(groups),
  };
}

function locateIn(groups: { id: string; instances: number }[], instance: number): { group: string; inGroup: number } {
  let first = 0;
  for (const { id, instances } of groups) {
    if (instance < first + instances) return { group: id, inGroup: instance - first };
    first += instances;
  }
  return { group: "", inGroup: 0 };
}

function kpiRows(factor: number): KpiRow[] {
  return [
    kpiRow("time_to_find", "s", 0.217 * factor, "lower"), kpiRow("delivery_ratio", "ratio", 0.41 / factor, "higher"), kpiRow("bytes_sent", "B", 18_400 * factor),
    kpiRow("dials", "", 12, undefined, 900), { name: "providers", unit: "", count: 1, stats: { sum: 20, mean: 20, min: 20, max: 20, p50: 20, p90: 20, p95: 20, p99: 20 } },
  ];
}

function kpiFile(run: string, kpis: KpiRow[], judgement: KpiFile["judgement"], groups: string[], factor: number): KpiFile {
  const series = kpis.flatMap((row) => groups.map((group, at) => {
    const middle = (row.stats["p50"] ?? 1) * (0.8 + at * 0.1);
    const pos: Record<string, number> = {};
    for (let step = -60; step <= 60; step += 4) pos[String(Math.ceil(Math.log(middle) / Math.log(1.01)) + step)] = Math.round(100 * Math.exp(-(step * step) / 1500));
    const count = Object.values(pos).reduce((sum, value) => sum + value, 0);
    return { key: { name: row.name, group, unit: row.unit }, count, stats: row.stats, values: { buckets: { count, sum: middle * count, min: middle * 0.5, max: middle * 2, zero: 0, pos, neg: {} } } };
  }));
  void factor;
  return { v: 1, run, kpis, series, hosts: [], judgement };
}

function eventsOf(groups: { id: string; instances: number }[], seconds: number, over: boolean, verdict: string | null): RunEvent[] {
  const all: RunEvent[] = ["submitted", "queued", "reserved", "preparing", "starting", "running"].map((text, at) => ({ at_ms: [0, 200, 9000, 9500, 29_000, 31_000][at]!, kind: "phase", text }));
  all.push({ at_ms: 300, kind: "build", text: "image of eu-home is cached" });
  let instance = 0;
  for (const { id, instances } of groups) {
    for (let n = 0; n < Math.min(instances, 40); n += 1) all.push({ at_ms: 31_000 + n * 7, kind: "instance_started", text: "started", worker: "w-01", group: id, instance: instance + n });
    all.push({ at_ms: 33_000, kind: "stage_start", text: "bootstrap", worker: "w-01", group: id, instance });
    all.push({ at_ms: 52_000, kind: "stage_end", text: "bootstrap", worker: "w-01", group: id, instance });
    all.push({ at_ms: 52_500, kind: "stage_start", text: "search", worker: "w-01", group: id, instance });
    if (over) all.push({ at_ms: 31_000 + seconds * 900, kind: "stage_end", text: "search", worker: "w-01", group: id, instance });
    for (let n = 0; n < 12; n += 1) all.push({ at_ms: 40_000 + n * 4000, kind: "message", text: `found ${n} providers`, worker: "w-01", group: id, instance: instance + (n % instances) });
    instance += instances;
  }
  all.push({ at_ms: 42_000, kind: "schedule", text: "partition eu-west from ap-south", worker: "w-01" }, { at_ms: 62_000, kind: "schedule", text: "eu-west and ap-south are one network again", worker: "w-01" });
  for (let at = 45_000; at < 31_000 + seconds * 1000; at += 11_000) all.push({ at_ms: at, kind: "strike", text: "kill churners", worker: "w-03", group: "churners", instance: instance - 1 });
  all.push({ at_ms: 71_000, kind: "warning", text: "limits of open files cannot be enforced", worker: "w-03" });
  if (verdict === "failed") all.push({ at_ms: 88_402, kind: "failure", text: "peer table poisoned", worker: "w-01", group: "eu-home", instance: 53 });
  if (over) all.push({ at_ms: 31_000 + seconds * 1000, kind: "phase", text: "collecting" }, { at_ms: 33_000 + seconds * 1000, kind: "phase", text: "finished" }, { at_ms: 33_010 + seconds * 1000, kind: "verdict", text: String(verdict) });
  return all.sort((one, two) => one.at_ms - two.at_ms);
}

function recordOf(status: RunEntry["status"], source: RunEntry["source"], groups: { id: string; instances: number }[], placement: Grid["placement"]): RunRecord {
  return {
    v: 1, status, attempt: 1, version: "0.1.0", run_in_composition: "default", runtime: "netns", seed: 7_342_911, subnet: "16.4.0.0/16",
    composition: COMPOSITION,
    groups: groups.map(({ id, instances }) => ({ id, instances, image: { kind: "bundle", digest: `sha256:91c2${"ab".repeat(30)}`, size: 18_400_000 }, params: { timeout: "30s", peers: "20" }, resources: { cpu_cores: null, memory_bytes: null, pids: null } })),
    limits: { prepare: ms(600_000), run: ms(600_000), stop_grace: ms(10_000), outcome_grace: ms(45_000) },
    placement, source, versions: { "nats-server": "2.15.1", "w-01": "0.1.0", kernel: "6.1.0-31-amd64" },
  };
}

export const COMPOSITION = `# Ten groups in three regions, as it was templated.
[metadata]
name = "find-providers-world"

[global]
plan = "dht"
case = "find-providers"
total_instances = 1000
builder = "exec:cargo"
runner = "cluster:netns"

  [global.run_config]
  log_cap = "8 MiB"

[[groups]]
id = "eu-seed"
instances = { percentage = "5%" }
region = "eu-west"

[[schedule]]
kind = "partition"
at = "11s"
for = "20s"
between = ["eu-west", "ap-south"]
`;

function logsOf(groups: { id: string; instances: number }[], lines: number): LogLine[] {
  const random = dice(lines);
  const total = groups.reduce((sum, group) => sum + group.instances, 0);
  return Array.from({ length: lines }, (_, at) => {
    const instance = Math.floor(random() * total);
    const where = locateIn(groups, instance);
    const texts = ["dialing 3 peers", "found provider in 412 ms", "routing table has 20 entries", "connection closed by peer", "provide: stored on 20 peers"];
    const text = texts[Math.floor(random() * texts.length)]!;
    const stderr = random() < 0.08;
    return { at_ms: 31_000 + Math.floor((at / lines) * 120_000), instance, group: where.group, in_group: where.inGroup, stderr, line: stderr ? `WARN swarm: ${text} <script>alert(1)</script>` : `INFO ${text}` };
  });
}

function filesOf(groups: { id: string; instances: number }[]): IndexEntry[] {
  let first = 0;
  return groups.flatMap(({ id, instances }) => {
    const mine = Array.from({ length: Math.min(instances, 60) }, (_, n) => ["stdout.log", "results.out", "profiles/cpu.pb.gz"].map((path, at) => ({
      group: id, in_group: n, instance: first + n, path, size: 1200 * (at + 1) + n * 37, sha256: `sha256:${String(at)}${"0a".repeat(31)}1`,
    }))).flat();
    first += instances;
    return mine;
  });
}

export const INFO: Info = {
  api: 1, service: { version: "0.1.0", objects: "s3://gs-artifacts", nats: "2.15.1", name: "coord-a", pid: 4242 },
  tokens_required: false, user: null, scopes: ["read", "submit", "cancel", "admin"],
};

export function queueEntries(): QueueEntry[] {
  return [
    { place: 1, run: "c8k3vmlrirtj2p8lq001", name: "quiet-otter", plan: "gossip", case: "flood", team: "net", user: "ben", priority: "interactive", instances: 2000, waited_ms: 74_000, reason: "it needs 2,000 slots and 412 are free; calm-heron ends in about 2 min" },
    { place: 2, run: "c8k3vmlrirtj2p8lq002", name: "bold-finch", plan: "bitswap", case: "transfer", team: "storage", user: "eva", priority: "batch", instances: 60, waited_ms: 1_260_000, reason: "team storage runs as many runs as it may (3)" },
  ];
}

export function workerList(): WorkerStatus[] {
  const card = {
    measured_ms: NOW - 9 * 86_400_000, host: { cpu_model: "AMD EPYC 7B13", cores: 32, memory_bytes: 137_000_000_000, kernel: "6.1.0-31-amd64", cgroup_version: 2 },
    figures: { starts_per_second: { netns: 412.4, docker: 6.1 }, packets_per_core_second: 1_240_000, flow_bps: 18_400_000_000, wakeup_p50_us: 54, wakeup_p99_us: 210, disk_write_bytes_per_second: 940_000_000, fsync_p50_us: 310, fsync_p99_us: null, free_memory_bytes: 120_000_000_000 },
    missing: ["fsync p99: the disk was busy"],
  };
  const base = { version: "0.1.0", runtimes: ["docker", "netns"], notes: [], labels: { zone: "a" }, cordons: [], runs: [MAIN], card: null };
  return [
    { ...base, worker: "w-01", state: "ready", slots: 4000, used: 3412, instances: 3412, heard_ms: 800, card },
    { ...base, worker: "w-02", state: "draining", slots: 4000, used: 120, instances: 120, heard_ms: 1200, cordons: [{ by: "ana", reason: "new disk", since_ms: NOW - 3_600_000, drain: { deadline: ms(1_800_000) } }] },
    { ...base, worker: "w-03", state: "silent", slots: 2000, used: 0, instances: 0, heard_ms: 14_000, runs: [], labels: { zone: "b" }, notes: ["docker: no engine on /var/run/docker.sock"], runtimes: ["netns"] },
  ];
}

/** All runs of the fake, newest first. */
export function allRuns(): Map<string, FakeRun> {
  const runs = [
    makeRun({ id: LIVE, name: "swift-lynx", total: 400, verdict: null, ageMin: 1.6, full: true, seconds: 90 }),
    makeRun({ id: MAIN, name: "calm-heron", total: 1000, verdict: "failed", ageMin: 22, full: true }),
    makeRun({ id: BIG, name: "vast-whale", total: 10_000, verdict: "passed", ageMin: 190, full: true }),
  ];
  const verdicts: Verdict[] = ["passed", "passed", "passed", "inconclusive", "passed", "infra", "passed", "timed_out", "passed", "canceled", "passed", "rejected"];
  const names = ["brave-swan", "eager-mole", "fair-newt", "glad-toad", "keen-wolf", "mild-hare", "neat-crow", "pale-lark", "rare-seal", "tame-wren", "warm-puma", "wise-ibis"];
  verdicts.forEach((verdict, at) => runs.push(makeRun({
    id: `c8k3vmlrirtj2p8l${String(899 - at * 7).padStart(3, "0")}0`, name: names[at]!, total: 200, verdict, ageMin: 600 + at * 720, factor: 0.9 + ((at * 37) % 17) / 80,
    commit: `${(at * 7919 + 4097).toString(16).padStart(8, "0")}c2d4e5f60718293a4b5c6d7e8f901234`, branch: at % 4 === 3 ? "pr/812" : "main", grade: at === 3 ? "degraded" : "exact",
    reason: verdict === "passed" ? "" : verdict === "infra" ? "worker w-03 was lost with 40 instances" : `the run was ${verdict.replace("_", " ")}`,
  })));
  return new Map(runs.map((run) => [run.entry.status.run, run]));
}

export type { Events };
