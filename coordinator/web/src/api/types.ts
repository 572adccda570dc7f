/** What the API answers. Names and fields are those of the Rust types; see docs/http-api.md. */

export type Duration = { secs: number; nanos: number };

export type Phase =
  | "submitted" | "queued" | "reserved" | "preparing" | "starting" | "running" | "collecting" | "finished" | "cleaned";

export type Verdict =
  | "passed" | "failed" | "inconclusive" | "infra" | "timed_out" | "canceled" | "rejected" | "unplaceable";

export type Outcome = "success" | "failure" | "timed_out" | "canceled" | "aborted" | "lost" | "killed";

export type GroupCounts = {
  want: number; ready: number; running: number; success: number; failure: number;
  timed_out: number; canceled: number; aborted: number; lost: number; killed?: number;
};

export type Exit = { code: number | null; signal: number | null; oom_killed: boolean; from_outside?: boolean };

export type InstanceEnd = { outcome: Outcome; reason: string; exit: Exit | null; last_lines: string[] };

export type Failure = [instance: number, group: string, inGroup: number, end: InstanceEnd];

export type RunStatus = {
  run: string; name: string; revision: number; plan: string; case: string; user: string;
  phase: Phase; doing: string;
  submitted_ms: number; started_ms: number | null; finished_ms: number | null;
  groups: [string, GroupCounts][];
  workers: string[];
  verdict: Verdict | null; reason: string; warnings: string[];
  failures: Failure[];
  exposed?: { instance: number; label: string; port: number; address: string }[];
  network: Fidelity | null;
  judgement?: Judgement;
  forgotten?: boolean;
};

export type SourceInfo = { repo: string; branch: string; commit: string; dirty: boolean };
export type RunEntry = { status: RunStatus; source: SourceInfo };
export type RunList = { runs: RunEntry[]; more: boolean };

export type InstanceRange = { group: number; first: number; first_in_group: number; count: number };

export type RunRecord = {
  v: number; status: RunStatus; attempt: number; version: string; composition: string; run_in_composition: string;
  runtime: "docker" | "netns"; seed: number; subnet: string;
  groups: GroupSpec[];
  limits: { prepare: Duration; run: Duration; stop_grace: Duration; outcome_grace: Duration };
  placement: [string, InstanceRange[]][];
  source: SourceInfo;
  versions: Record<string, string>;
};

export type GroupSpec = {
  id: string; instances: number;
  image: { kind: "bundle" | "docker"; digest: string; size: number };
  params: Record<string, string>;
  resources: { cpu_cores: number | null; memory_bytes: number | null; pids: number | null };
};

export type RunEvent = {
  at_ms: number; kind: string; text: string; worker?: string; group?: string; instance?: number;
};
export type Events = { from: number; next: number; end: boolean; over: boolean; events: RunEvent[] };

export type Judgement = {
  expectations?: Judged[]; gates?: JudgedGate[]; kpis?: KpiRow[];
  series: number; left_out: number; strict: boolean;
};
export type Judged = {
  name: string; what: string; wanted: string; got: string; value?: number; state: "kept" | "broken" | "silent" | "off";
};
export type JudgedGate = { name: string; wanted: string; got: string; state: "kept" | "broken" | "unmeasured" };
export type KpiRow = {
  name: string; unit: string; better?: "lower" | "higher"; count: number; stats: Record<string, number>;
};
export type Buckets = {
  count: number; sum: number; min: number; max: number; zero: number;
  pos: Record<string, number>; neg: Record<string, number>;
};
export type Values = { values?: number[]; buckets?: Buckets };
export type SeriesRow = {
  key: { name: string; group: string; unit?: string; tags?: Record<string, string>; diagnostic?: boolean };
  count: number; stats: Record<string, number>; values: Values;
};
export type KpiFile = {
  v: number; run: string; kpis: KpiRow[]; series: SeriesRow[];
  hosts: [string, { busy: Values; steal: Values; oom_kills: number; clock_step_s: number }][];
  judgement: Judgement | null;
};

export type Grade = "idle" | "exact" | "good" | "unproven" | "degraded";
export type Late = { p50_ns: number; p90_ns: number; p99_ns: number; max_ns: number };
export type ShareFidelity = { configured: number; achieved: number; interval: [number, number]; holds: boolean };
export type LaneFidelity = {
  what: string; shape: LinkShape | null; packets: number; filtered: number; overrun: number; late: Late;
  loss: ShareFidelity | null; duplication: ShareFidelity | null; corruption: ShareFidelity | null;
  rate: { configured_bps: number; achieved_bps: number | null; off: number } | null;
};
export type Fidelity = {
  grade: Grade; reasons: string[]; packets: number; late: Late; lanes: LaneFidelity[];
  fates: Record<string, number>; no_memory: number; interface_drops: number | null;
  stalls: [string, { at: Duration; length: Duration }][]; stalls_total: number;
  probes: {
    pairs: number; sent: number; late: Late | null; earliest_ns: number; loss: ShareFidelity | null;
  } | null;
  unmeasured: string[]; unseen?: string[];
};

export type LinkShape = {
  latency?: Duration; jitter?: Duration; bandwidth_bps?: number; filter?: "accept" | "reject" | "drop";
  loss_pct?: number; corrupt_pct?: number; reorder_pct?: number; duplicate_pct?: number;
};
export type NetworkGroup = {
  id: string; instances: number; region: string | null; nat: { kind: string; members: number }[];
  up_bps: number; down_bps: number;
};
export type Network = {
  subnet: string; data_path: "switch" | "kernel"; encrypt: boolean; groups: NetworkGroup[];
  shapes: LinkShape[]; links: number[]; lanes: (number | null)[];
  schedule: { at_ms: number; text: string }[]; narrative: string[];
  fidelity: Fidelity | null;
};

export type Grid = {
  run: string; at_ms: number; revision: number; groups: [string, number][];
  placement: [string, InstanceRange[]][]; states: string;
};
export type GridChange = {
  run: string; at_ms: number; before: number; revision: number; changes: [first: number, count: number, state: number][];
};

export type LogLine = {
  at_ms: number | null; instance: number; group: string; in_group: number; stderr: boolean; line: string;
};
export type Logs = { lines: LogLine[]; next: string | null; left_out: number };
export type LogLines = { instance: number; group: string; in_group: number; stderr: boolean; lines: string[] };
export type LogNews = { run: string; at_ms: number; lines: LogLines[]; left_out: number };

export type IndexEntry = {
  group: string; in_group: number; instance: number; path: string; size: number; sha256: string;
};
export type Artifacts = { files: IndexEntry[]; total: number; bytes: number; more: boolean; skipped: string[] };

export type QueueEntry = {
  place: number; run: string; name: string; plan: string; case: string; team: string; user: string;
  priority: Priority; instances: number; waited_ms: number; reason: string;
};
export type Priority = "interactive" | "normal" | "batch";

export type WorkerStatus = {
  worker: string; state: string; version: string; slots: number; used: number; instances: number;
  runtimes: string[]; notes: string[]; labels: Record<string, string>; heard_ms: number;
  cordons: { by: string; reason: string; since_ms: number; drain: { deadline: Duration | null } | null }[];
  runs: string[]; card: Card | null;
};
export type Card = {
  measured_ms: number;
  host: { cpu_model: string; cores: number; memory_bytes: number; kernel: string; cgroup_version: number };
  figures: {
    starts_per_second: Record<string, number>; packets_per_core_second: number | null; flow_bps: number | null;
    wakeup_p50_us: number | null; wakeup_p99_us: number | null; disk_write_bytes_per_second: number | null;
    fsync_p50_us: number | null; fsync_p99_us: number | null; free_memory_bytes: number;
  };
  missing: string[];
};

export type Scope = "read" | "submit" | "cancel" | "admin";
export type Info = {
  api: number;
  service: { version: string; objects: string; nats: string; name: string; pid: number };
  tokens_required: boolean; user: string | null; scopes: Scope[];
};

export type ComparisonRow = {
  name: string; unit: string; stat: string; better: "lower" | "higher" | null; a: number[]; b: number[];
  shift: number | null; low: number | null; high: number | null; p: number | null; effect: number | null;
  verdict: "regression" | "improvement" | "changed" | "same" | "inconclusive"; text: string;
};
export type Comparison = {
  a: RunEntry[]; b: RunEntry[]; left_out: [string, string][]; design: string; rows: ComparisonRow[];
};

export type Refusal = { kind: string; message: string; help: string };
