/** What was decided about the run, and how to do it again. */

import { useState } from "preact/hooks";
import type { RunEntry, RunRecord } from "../../api/types.ts";
import { bytes, count, millis, span } from "../../format.ts";
import { announced } from "../../state/store.ts";
import { Panel, Shown, Table } from "../../ui/parts.tsx";
import type { Query } from "../../ui/query.ts";

export function Record({ query, entry }: { query: Query<RunRecord>; entry: RunEntry }) {
  return (
    <Shown query={query} what="the record" missing="Nothing is decided yet: no seed, no place, no images.">
      {(record) => (
        <div class="stack">
          <Panel title="Do it again"><Reproduce record={record} entry={entry} /></Panel>
          <div class="grid">
            <Panel title="Record" class="half"><Facts record={record} /></Panel>
            <Panel title="Images" class="half" flush>
              <Table name="Images" rows={record.groups} keyOf={(group) => group.id} columns={[
                { head: "Group", cell: (group) => group.id },
                { head: "Image", cell: (group) => <code title={group.image.digest}>{group.image.digest.slice(0, 19)}</code> },
                { head: "Kind", cell: (group) => group.image.kind },
                { head: "Size", number: true, cell: (group) => bytes(group.image.size) },
                { head: "Parameters", cell: (group) => <span class="muted">{Object.entries(group.params).map(([key, value]) => `${key}=${value}`).join(" ") || "–"}</span> },
              ]} />
            </Panel>
          </div>
        </div>
      )}
    </Shown>
  );
}

function Facts({ record }: { record: RunRecord }) {
  const facts: [string, preact.ComponentChildren][] = [
    ["seed", <code>{record.seed}</code>],
    ["attempt", record.attempt],
    ["runtime", record.runtime],
    ["subnet", <code>{record.subnet}</code>],
    ["time limit", span(millis(record.limits.run))],
    ["Groundswell", record.version],
    ["repository", record.source.repo || "–"],
    ["commit", <><code>{record.source.commit || "–"}</code>{record.source.dirty && <span class="warn"> with changes that are not committed</span>}</>],
    ["placed on", record.placement.map(([worker, ranges]) => `${worker} (${count(ranges.reduce((sum, range) => sum + range.count, 0))})`).join(", ") || "–"],
    ...Object.entries(record.versions).sort().map(([name, version]): [string, string] => [name, version]),
  ];
  return <dl class="facts">{facts.map(([name, value]) => [<dt key={name}>{name}</dt>, <dd key={`${name} d`}>{value}</dd>])}</dl>;
}

function Reproduce({ record, entry }: { record: RunRecord; entry: RunEntry }) {
  const [copied, setCopied] = useState(false);
  const checkout = entry.source.commit ? `git checkout ${entry.source.commit} && ` : "";
  const run = record.run_in_composition ? ` --run-ids ${record.run_in_composition}` : "";
  const line = `${checkout}coordinator submit composition.toml${run} --seed ${record.seed}`;
  const copy = () => void navigator.clipboard?.writeText(line).then(() => {
    setCopied(true);
    announced.value = "copied";
  });
  return (
    <>
      <div class="reproduce"><pre tabIndex={0} aria-label="Command">{line}</pre><button type="button" onClick={copy}>{copied ? "Copied" : "Copy"}</button></div>
      <p class="muted" style={{ marginTop: "6px" }}>composition.toml is under Composition. The seed draws the same links, the same narrative and the same NATs.</p>
    </>
  );
}
