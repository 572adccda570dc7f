/** Runs that wait, and why. */

import { useEffect, useState } from "preact/hooks";
import { post } from "../api/client.ts";
import type { Problem as Trouble } from "../api/client.ts";
import { want } from "../api/stream.ts";
import type { Priority, QueueEntry, RunStatus } from "../api/types.ts";
import { count, span } from "../format.ts";
import { announced, info, queue } from "../state/store.ts";
import { Empty, Heading, Problem, RunLink, Shown, Table } from "../ui/parts.tsx";
import { useJson } from "../ui/query.ts";

const PRIORITIES: Priority[] = ["interactive", "normal", "batch"];

export function QueuePage() {
  useEffect(() => want("queue"), []);
  const query = useJson<QueueEntry[]>("/queue");
  const rows = queue.value ?? query.data;
  return (
    <>
      <Heading title="Queue" />
      <p class="under">First in line first. A run waits until there is room for all of its instances.</p>
      {rows ? <Waiting rows={rows} /> : <Shown query={query} what="the queue">{() => null}</Shown>}
    </>
  );
}

function Waiting({ rows }: { rows: QueueEntry[] }) {
  const [problem, setProblem] = useState<Trouble | null>(null);
  const may = info.value?.scopes.some((scope) => scope === "cancel" || scope === "admin") ?? false;
  const change = async (entry: QueueEntry, priority: Priority) => {
    const answer = await post<RunStatus>(`/runs/${entry.run}/priority`, { priority });
    setProblem(answer.ok ? null : answer.problem);
    if (answer.ok) announced.value = `${entry.name} is ${priority}`;
  };
  if (rows.length === 0) return <Empty>No run waits.</Empty>;
  return (
    <div class="stack">
      {problem && <Problem problem={problem} />}
      <div class="panel">
        <Table name="Waiting runs" rows={rows} keyOf={(entry) => entry.run} columns={[
          { head: "Place", number: true, cell: (entry) => entry.place },
          { head: "Run", cell: (entry) => <RunLink status={entry} />, class: "nowrap" },
          { head: "Plan and case", cell: (entry) => <>{entry.plan}<span class="muted">/{entry.case}</span></> },
          { head: "Team", cell: (entry) => entry.team || "–" },
          { head: "User", cell: (entry) => entry.user || "–" },
          {
            head: "Priority", cell: (entry) => (may ? (
              <select aria-label={`Priority of ${entry.name}`} value={entry.priority} onChange={(event) => void change(entry, event.currentTarget.value as Priority)}>
                {PRIORITIES.map((one) => <option key={one} value={one}>{one}</option>)}
              </select>
            ) : entry.priority),
          },
          { head: "Instances", number: true, cell: (entry) => count(entry.instances) },
          { head: "Waited", number: true, cell: (entry) => span(entry.waited_ms) },
          { head: "Why it does not run", cell: (entry) => entry.reason },
        ]} />
      </div>
    </div>
  );
}
