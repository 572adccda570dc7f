/** The small parts that pages are made of. */

import type { ComponentChildren, TargetedEvent } from "preact";
import type { Problem as Trouble } from "../api/client.ts";
import { setToken, wantsToken } from "../api/client.ts";
import type { Query } from "./query.ts";
import { runStatus } from "../format.ts";
import type { Status } from "../format.ts";
import type { RunStatus } from "../api/types.ts";
import { href } from "../route.ts";
import { STATES } from "../state/reduce.ts";

type Children = { children?: ComponentChildren };

export function Badge({ status, title }: { status: Status; title?: string }) {
  return (
    <span class={`badge ${status.tone}`} title={title}>
      <span class="glyph" aria-hidden="true">{status.glyph}</span>{status.word}
    </span>
  );
}

export function Panel(props: Children & { title: string; end?: ComponentChildren; flush?: boolean; class?: string }) {
  return (
    <section class={`panel ${props.class ?? ""}`}>
      <header><h2>{props.title}</h2>{props.end !== undefined && <span class="end">{props.end}</span>}</header>
      <div class={props.flush ? "body flush" : "body"}>{props.children}</div>
    </section>
  );
}

/** The heading of a page; the focus goes there when the page changes. */
export function Heading({ title, children, end }: Children & { title: ComponentChildren; end?: ComponentChildren }) {
  return (
    <div class="heading"><h1 tabIndex={-1}>{title}</h1>{children}{end !== undefined && <div class="end">{end}</div>}</div>
  );
}

/** What went wrong, and what to do. */
export function Problem({ problem, reload }: { problem: Trouble; reload?: () => void }) {
  const token = problem.status === 401;
  return (
    <div class="problem" role="alert">
      <p>{sentence(problem.message)}</p>
      {problem.help !== "" && <p class="help">{problem.help}</p>}
      {token && <button type="button" onClick={() => (wantsToken.value = problem)}>Enter a token</button>}
      {!token && reload && <button type="button" onClick={reload}>Try again</button>}
    </div>
  );
}

function sentence(text: string): string {
  return text.slice(0, 1).toUpperCase() + text.slice(1);
}

export function Loading({ what }: { what: string }) {
  return <p class="loading" role="status">Loading {what}…</p>;
}

export function Empty({ children }: Children) {
  return <p class="empty">{children}</p>;
}

/** Shows an answer, or that it is on its way, or why there is none. */
export function Shown<T>(props: {
  query: Query<T>; what: string; missing?: string; children: (data: T) => ComponentChildren;
}) {
  const { data, problem, reload } = props.query;
  if (data !== null) {
    return <>{problem && <Problem problem={problem} reload={reload} />}{props.children(data)}</>;
  }
  if (problem?.status === 404 && props.missing !== undefined) return <Empty>{props.missing}</Empty>;
  if (problem) return <Problem problem={problem} reload={reload} />;
  return <Loading what={props.what} />;
}

export type Column<T> = {
  head: ComponentChildren; cell: (row: T) => ComponentChildren; number?: boolean; class?: string; name?: string;
};

export function Table<T>(props: {
  rows: readonly T[]; columns: Column<T>[]; name: string; keyOf: (row: T) => string; caption?: string;
}) {
  return (
    <div class="scroll" tabIndex={0} role="region" aria-label={props.name}>
      <table aria-label={props.name}>
        {props.caption !== undefined && <caption>{props.caption}</caption>}
        <thead><tr>{props.columns.map((column, at) => (
          <th key={at} scope="col" class={column.number ? "number" : column.class}>{column.head}</th>
        ))}</tr></thead>
        <tbody>{props.rows.map((row) => (
          <tr key={props.keyOf(row)}>{props.columns.map((column, at) => (
            <td key={at} class={`${column.number ? "number" : ""} ${column.class ?? ""}`.trim() || undefined}>
              {column.cell(row)}
            </td>
          ))}</tr>
        ))}</tbody>
      </table>
    </div>
  );
}

export function RunLink({ status, tail = "" }: { status: { run: string; name: string }; tail?: string }) {
  return <a href={href(`/runs/${status.run}${tail}`)}>{status.name}</a>;
}

export function RunBadge({ status }: { status: RunStatus }) {
  return <Badge status={runStatus(status)} title={status.reason || status.doing} />;
}

/** The sign of an instance's state: its shape says what its colour says. */
export function Swatch({ state }: { state: number }) {
  const shape = state <= 2 ? "ring" : [7, 8, 10, 11].includes(state) ? "cross"
    : state === 5 ? "bars" : [4, 9, 12].includes(state) ? "diamond" : "";
  const color = `var(--state-${state})`;
  return <span class={`swatch ${shape}`} aria-hidden="true" style={{ background: color, borderColor: color }} />;
}

/** How many instances have which state; with `only` and `toggle` a filter. */
export function StateLegend(props: {
  counts: number[]; only?: ReadonlySet<number> | null; toggle?: (state: number) => void;
}) {
  const shown = props.counts.map((count, state) => ({ count, state })).filter(({ count, state }) =>
    count > 0 || props.only?.has(state));
  return (
    <ul class="legend" aria-label="Instances by state">
      {shown.map(({ count, state }) => {
        const inside = <><Swatch state={state} />{STATES[state]} <b>{count.toLocaleString("en").replaceAll(",", "\u202f")}</b></>;
        return (
          <li key={state}>
            {props.toggle
              ? <button type="button" aria-pressed={props.only?.has(state) ?? false} onClick={() => props.toggle?.(state)}>{inside}</button>
              : inside}
          </li>
        );
      })}
    </ul>
  );
}

/** The dialog that asks for a token, while the server wants one. */
export function TokenDialog() {
  const problem = wantsToken.value;
  if (!problem) return null;
  const submit = (event: TargetedEvent<HTMLFormElement>) => {
    event.preventDefault();
    const field = new FormData(event.currentTarget).get("token");
    setToken(typeof field === "string" ? field : "");
  };
  return (
    <Modal title="This coordinator wants a token" close={() => (wantsToken.value = null)}>
      <form onSubmit={submit}>
        <p class="muted">{sentence(problem.message)}. {problem.help}</p>
        <label>Token
          <input name="token" type="password" autocomplete="off" spellcheck={false} placeholder="gs_…" required
            pattern="\s*gs_\S+\s*" title="gs_, eight characters, _, 43 characters" />
        </label>
        <p class="muted">It is kept in this tab only. <code>coordinator token create --scope read</code> makes one.</p>
        <div class="row">
          <button type="button" onClick={() => (wantsToken.value = null)}>Not now</button>
          <button type="submit" class="primary">Use it</button>
        </div>
      </form>
    </Modal>
  );
}

/** A dialog over the page, opened as soon as it is there. */
export function Modal({ title, close, children }: Children & { title: string; close: () => void }) {
  const show = (dialog: HTMLDialogElement | null) => {
    if (dialog && !dialog.open) dialog.showModal();
  };
  return (
    <dialog ref={show} aria-label={title} onClose={close} onCancel={close}>
      <h2>{title}</h2>
      {children}
    </dialog>
  );
}
