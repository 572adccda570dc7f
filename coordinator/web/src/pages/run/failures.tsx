/** The first failure in full, and the others by what they have in common. */

import type { Failure, InstanceEnd, RunStatus } from "../../api/types.ts";
import { count, plural, words } from "../../format.ts";
import { href } from "../../route.ts";
import { Panel } from "../../ui/parts.tsx";

export function Failures({ status }: { status: RunStatus }) {
  const [first, ...others] = status.failures;
  if (!first) return <></>;
  const [instance, group, inGroup, end] = first;
  const clusters = signatures(others);
  return (
    <Panel title="First failure" end={<a href={href(`/runs/${status.run}/logs?instance=${group}:${inGroup}`)}>its logs</a>}>
      <p>
        <b class="bad">✗ {group}[{inGroup}]</b> <span class="muted">instance {instance} · {words(end.outcome)} · {exitText(end)}</span>
      </p>
      <p style={{ marginTop: "3px" }}>{end.reason || "it said nothing"}</p>
      {end.last_lines.length > 0 && <pre class="lines" tabIndex={0} aria-label="Its last lines">{end.last_lines.join("\n")}</pre>}
      {clusters.length > 0 && (
        <>
          <h3 style={{ marginTop: "12px" }}>Others that were told first</h3>
          <ul style={{ margin: "4px 0 0", paddingLeft: "18px" }}>
            {clusters.map((cluster) => (
              <li key={cluster.text}>{plural(cluster.who.length, "instance")}: {cluster.text || "it said nothing"} <span class="muted">
                {cluster.who.slice(0, 4).map((who, at) => <>{at > 0 && ", "}<a href={href(`/runs/${status.run}/logs?instance=${who}`)}>{who}</a></>)}{cluster.who.length > 4 && ` and ${count(cluster.who.length - 4)} more`}
              </span></li>
            ))}
          </ul>
        </>
      )}
    </Panel>
  );
}

/** Failures with the same text but for numbers and addresses, the most frequent first. */
export function signatures(failures: Failure[]): { text: string; who: string[] }[] {
  const found = new Map<string, { text: string; who: string[] }>();
  for (const [, group, inGroup, end] of failures) {
    const key = `${end.outcome} ${end.reason}`.replace(/0x[0-9a-f]+|\d+/gi, "#");
    const known = found.get(key) ?? { text: end.reason, who: [] };
    known.who.push(`${group}:${inGroup}`);
    found.set(key, known);
  }
  return [...found.values()].sort((one, other) => other.who.length - one.who.length);
}

function exitText(end: InstanceEnd): string {
  if (!end.exit) return "never started, or its exit is not known";
  const memory = end.exit.oom_killed ? "out of memory, " : "";
  if (end.exit.signal !== null) return `${memory}killed by signal ${end.exit.signal}`;
  return end.exit.code === null ? `${memory}exit status unknown` : `${memory}exit code ${end.exit.code}`;
}
