/** The composition after templating, as it was run. */

import { useState } from "preact/hooks";
import type { RunEntry } from "../../api/types.ts";
import { Shown } from "../../ui/parts.tsx";
import { useText } from "../../ui/query.ts";

export function CompositionTab({ entry }: { entry: RunEntry }) {
  const query = useText(`/runs/${entry.status.run}/composition`);
  return <Shown query={query} what="the composition" missing="The composition is not stored.">{(text) => <Toml text={text} name={entry.status.name} />}</Shown>;
}

function Toml({ text, name }: { text: string; name: string }) {
  const [url] = useState(() => URL.createObjectURL(new Blob([text], { type: "text/plain" })));
  return (
    <>
      <p class="row" style={{ marginBottom: "10px" }}>
        <a class="button" href={url} download={`${name}.toml`}>Download</a>
        <span class="muted">After templating: what ran.</span>
      </p>
      <pre class="composition" tabIndex={0} aria-label="Composition">
        {text.replace(/\n$/, "").split("\n").map((line, at) => <div key={at}><span class="n" aria-hidden="true">{at + 1}</span><Line text={line} /></div>)}
      </pre>
    </>
  );
}

function Line({ text }: { text: string }) {
  if (/^\s*#/.test(text)) return <span class="comment">{text}</span>;
  if (/^\s*\[/.test(text) && !text.includes("=")) return <span class="head">{text}</span>;
  const match = /^(\s*[\w."-]+\s*)(=)(.*)$/.exec(text);
  if (!match) return <>{text || " "}</>;
  const [, key, equals, value = ""] = match;
  const quoted = /^\s*["'[]/.test(value);
  return <><span class="key">{key}</span>{equals}{quoted ? <span class="text">{value}</span> : value}</>;
}
