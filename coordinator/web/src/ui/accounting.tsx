/** Where all instances of a run are: a bar and words that add up. */

import type { GroupCounts } from "../api/types.ts";
import { count, ended, totals } from "../format.ts";
import { Swatch } from "./parts.tsx";

const ENDS: [keyof GroupCounts, string, number][] = [
  ["success", "success", 6], ["failure", "failure", 7], ["timed_out", "timed out", 8], ["canceled", "canceled", 9],
  ["aborted", "aborted", 10], ["lost", "lost", 11], ["killed", "killed by the narrative", 12],
];

/** Instances of a run by where they are; the parts add up to what the composition asks for. */
export function parts(counts: GroupCounts): { word: string; state: number; count: number }[] {
  const all = ENDS.map(([key, word, state]) => ({ word, state, count: counts[key] ?? 0 }));
  const over = ended(counts);
  const running = Math.max(0, Math.min(counts.running, counts.want - over));
  const ready = Math.max(0, Math.min(counts.ready, counts.want) - over - running);
  all.push({ word: "running", state: 3, count: running }, { word: "ready", state: 2, count: ready });
  all.push({ word: "waiting", state: 0, count: Math.max(0, counts.want - over - running - ready) });
  return all.filter((part) => part.count > 0);
}

export function Accounting({ groups, brief = false }: { groups: [string, GroupCounts][]; brief?: boolean }) {
  const sum = totals(groups);
  const all = parts(sum);
  const text = all.map((part) => `${count(part.count)} ${part.word}`).join(" + ");
  const over = ended(sum) === sum.want;
  return (
    <div title={brief ? text : undefined}>
      <div class={brief ? "bar thin" : "bar"} role="img" aria-label={text || "no instances"}>
        {all.map((part) => <span key={part.word} style={{ flexGrow: String(part.count), background: `var(--state-${part.state})` }} />)}
      </div>
      {brief ? <Brief parts={all} want={sum.want} /> : (
        <>
          <ul class="legend">{all.map((part) => <li key={part.word}><Swatch state={part.state} />{part.word} <b>{count(part.count)}</b></li>)}</ul>
          <p class="muted" style={{ marginTop: "6px" }}>
            {count(sum.want)} = {text || "0"} {over && <span class="good">✓ all accounted for</span>}
          </p>
        </>
      )}
    </div>
  );
}

function Brief({ parts: all, want }: { parts: { word: string; state: number; count: number }[]; want: number }) {
  const bad = all.filter((part) => [7, 8, 10, 11].includes(part.state));
  if (bad.length === 0 && all.length === 1 && all[0]?.count === want) return <span class="muted" style={{ fontSize: "12px" }}>all {all[0].word}</span>;
  const named = bad.length > 0 ? bad : all.slice(0, 2);
  return <span class={bad.length > 0 ? "bad" : "muted"} style={{ fontSize: "12px" }}>{named.map((part) => `${count(part.count)} ${part.word.split(" by ")[0]}`).join(", ")}</span>;
}
