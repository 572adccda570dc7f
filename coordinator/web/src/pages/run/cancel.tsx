/** Ends a run, after asking how. */

import { useState } from "preact/hooks";
import { post } from "../../api/client.ts";
import type { Problem as Trouble } from "../../api/client.ts";
import type { RunStatus } from "../../api/types.ts";
import { announced, run as known } from "../../state/store.ts";
import { Modal, Problem } from "../../ui/parts.tsx";

export function CancelButton({ run }: { run: RunStatus }) {
  const [open, setOpen] = useState(false);
  const [problem, setProblem] = useState<Trouble | null>(null);
  const [busy, setBusy] = useState(false);
  const cancel = async (kill: boolean, reason: string) => {
    setBusy(true);
    const answer = await post<RunStatus>(`/runs/${run.run}/cancel`, { kill, reason });
    setBusy(false);
    if (!answer.ok) {
      setProblem(answer.problem);
      return;
    }
    if (known.value) known.value = { ...known.value, status: answer.value };
    announced.value = `${run.name} is being canceled`;
    setOpen(false);
  };
  return (
    <>
      <button type="button" class="danger" onClick={() => setOpen(true)}>Cancel run</button>
      {open && (
        <Modal title={`Cancel ${run.name}?`} close={() => setOpen(false)}>
          <form onSubmit={(event) => {
            event.preventDefault();
            const data = new FormData(event.currentTarget);
            void cancel(data.get("kill") === "on", String(data.get("reason") ?? ""));
          }}>
            <p class="muted">Instances are asked to end, and what they have written is collected.</p>
            <label>Reason <input name="reason" maxLength={200} placeholder="for the record" /></label>
            <label style={{ flexDirection: "row", gap: "8px", alignItems: "center" }}><input type="checkbox" name="kill" />Kill at once, without grace</label>
            {problem && <Problem problem={problem} />}
            <div class="row">
              <button type="button" onClick={() => setOpen(false)}>Keep it running</button>
              <button type="submit" class="danger" disabled={busy}>Cancel the run</button>
            </div>
          </form>
        </Modal>
      )}
    </>
  );
}
