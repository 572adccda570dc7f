/** The stored files of the run. */

import { useState } from "preact/hooks";
import { fileUrl, get, getJson, isExport, token, withQuery } from "../../api/client.ts";
import type { Problem as Trouble } from "../../api/client.ts";
import type { Artifacts, IndexEntry, RunEntry } from "../../api/types.ts";
import { bytes, count, plural } from "../../format.ts";
import { place, setQuery } from "../../route.ts";
import { Empty, Panel, Problem, Shown, Table } from "../../ui/parts.tsx";
import { Field } from "../../ui/field.tsx";
import { useJson } from "../../ui/query.ts";

const LIMIT = 500;

export function ArtifactsTab({ entry }: { entry: RunEntry }) {
  const { query } = place.value;
  const [group, instance, text] = ["group", "instance", "q"].map((key) => query.get(key) ?? "");
  const base = `/runs/${entry.status.run}/artifacts`;
  const path = isExport() ? base : withQuery(base, { limit: LIMIT, group, instance, q: text });
  const answer = useJson<Artifacts>(path, entry.status.phase);
  const [more, setMore] = useState<{ path: string; files: IndexEntry[]; more: boolean }>({ path, files: [], more: true });
  const later = more.path === path ? more : { path, files: [], more: answer.data?.more ?? false };
  const load = async () => {
    const from = (answer.data?.files.length ?? 0) + later.files.length;
    const next = await getJson<Artifacts>(withQuery(base, { limit: LIMIT, group, instance, q: text, from }));
    if (next.ok) setMore({ path, files: [...later.files, ...next.value.files], more: next.value.more });
  };
  return (
    <>
      {!isExport() && <Filters entry={entry} group={group ?? ""} instance={instance ?? ""} text={text ?? ""} />}
      <Shown query={answer} what="the list of files" missing="Outputs are stored when the run is over.">
        {(data) => (
          <div class="stack">
            {data.skipped.length > 0 && <Panel title="Left out"><ul style={{ margin: 0, paddingLeft: "18px" }}>{data.skipped.map((line) => <li key={line}>{line}</li>)}</ul></Panel>}
            <Panel title="Files" end={`${plural(data.total, "file")}, ${bytes(data.bytes)}`} flush>
              {data.files.length === 0 ? <Empty>No file fits.</Empty> : <Files run={entry.status.run} files={[...data.files, ...later.files]} />}
            </Panel>
            {(later.files.length > 0 ? later.more : data.more) && !isExport() && <p><button type="button" onClick={() => void load()}>Show more</button></p>}
          </div>
        )}
      </Shown>
    </>
  );
}

function Filters(props: { entry: RunEntry; group: string; instance: string; text: string }) {
  const set = (key: string) => (event: { currentTarget: { value: string } }) => setQuery({ [key]: event.currentTarget.value.trim() });
  return (
    <form class="filters" role="search" onSubmit={(event) => event.preventDefault()}>
      <label>Path <Field value={props.text} set={(q) => setQuery({ q })} placeholder="part of a path" /></label>
      <label>Group
        <select value={props.group} onChange={set("group")}>
          <option value="">any</option>
          {props.entry.status.groups.map(([id]) => <option key={id} value={id}>{id}</option>)}
        </select>
      </label>
      <label>Instance <Field value={props.instance} set={(instance) => setQuery({ instance: instance.trim() })} placeholder="17 or group:3" size={14} /></label>
    </form>
  );
}

function Files({ run, files }: { run: string; files: IndexEntry[] }) {
  const [problem, setProblem] = useState<Trouble | null>(null);
  const path = (file: IndexEntry) =>
    `/runs/${run}/artifacts/${encodeURIComponent(file.group)}/${file.in_group}/${file.path.split("/").map(encodeURIComponent).join("/")}`;
  const fetchFile = (file: IndexEntry) => (event: MouseEvent) => {
    // A link sends no token: with one, the file is fetched here and handed over.
    if (token.value === "") return;
    event.preventDefault();
    void get(path(file)).then((answer) => {
      if (!answer.ok) return setProblem(answer.problem);
      hand(answer.value, file.path.split("/").pop() ?? "file");
      return setProblem(null);
    });
  };
  return (
    <>
      {problem && <Problem problem={problem} />}
      <Table name="Files" rows={files} keyOf={(file) => `${file.group}/${file.in_group}/${file.path}`} columns={[
        { head: "Instance", cell: (file) => `${file.group}[${file.in_group}]`, class: "nowrap" },
        { head: "Path", cell: (file) => (isExport() ? file.path : <a href={fileUrl(path(file))} download={file.path.split("/").pop()} onClick={fetchFile(file)}>{file.path}</a>) },
        { head: "Size", number: true, cell: (file) => <span title={`${count(file.size)} bytes`}>{bytes(file.size)}</span> },
        { head: "Digest", cell: (file) => <code title={file.sha256}>{file.sha256.slice(0, 19)}</code> },
      ]} />
    </>
  );
}

/** Gives bytes to the browser as a download. */
export function hand(content: Uint8Array, name: string): void {
  const url = URL.createObjectURL(new Blob([content.slice()], { type: "application/octet-stream" }));
  const link = document.createElement("a");
  link.href = url;
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}
