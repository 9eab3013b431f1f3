// @ts-check
/** Give an agent something to do. */
import { html, useState } from "./vendor/preact.js";
import { act, call, Failed, to, useData } from "./lib.js";

/** The view. */
export function TryIt() {
  const { data, error } = useData("/agents");
  const [isSending, setSending] = useState(false);
  const agents = (data?.items ?? []).filter((/** @type {any} */ agent) => agent.kind !== "system");
  const send = async (/** @type {any} */ event) => {
    event.preventDefault();
    const given = new FormData(event.target);
    const budget = String(given.get("budget") ?? "").trim();
    const task = { agent_id: given.get("agent"), payload: { text: given.get("text") }, ...(budget ? { budget_usd: budget } : {}) };
    setSending(true);
    await act("The task is accepted", async () => {
      const made = await call("POST", "/tasks", task);
      location.hash = to(`task/${made.task_id}`);
    });
    setSending(false);
  };
  return html`<h1>Try it</h1>
    <${Failed} error=${error} />
    <form class="stack" onSubmit=${send}>
      <label>Agent <select name="agent" required>${agents.map((/** @type {any} */ agent) => html`<option key=${agent.agent_id} value=${agent.agent_id}>${agent.agent_id}</option>`)}</select></label>
      <label>Request <textarea name="text" rows="6" required></textarea></label>
      <label>It may cost at most, in dollars <input name="budget" inputmode="decimal" size="8" pattern="[0-9]*[.]?[0-9]+" /></label>
      <button class="yes" disabled=${isSending}>Send</button>
    </form>`;
}
