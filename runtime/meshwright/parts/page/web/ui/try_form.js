// @ts-check
/** A task by a form, with all that one may have. */
import { html, useState } from "./vendor/preact.js";
import { filled, Inputs, parsed } from "./form.js";
import { call, Failed, may, slow, to, useData } from "./lib.js";
import { ChooseAgent } from "./try.js";

const AMOUNT = "[0-9]*[.]?[0-9]+";

const TEXT = ["text"];

/** The schema of the payload that the chosen agent takes, or the best one for a capability. @param {any[]} agents @param {string} agent @param {string} capability */
function useSchema(agents, agent, capability) {
  const { data } = useData(capability && !agent && may("viewer") ? `/agents/score/${encodeURIComponent(capability)}` : null, slow);
  const best = data?.items.find((/** @type {any} */ card) => card.health)?.agent_id;
  const known = agents.find((one) => one.agent_id === (agent || best))?.capabilities ?? [];
  const meant = known.filter((/** @type {any} */ one) => !capability || one.name === capability);
  return meant.length === 1 ? meant[0].input_schema : undefined; // of several it is not known which
}

/** A task with all that one may have. @param {{agents: any[]}} given */
export default function TaskForm({ agents }) {
  const [isSending, setSending] = useState(false);
  const [{ agent, capability }, choose] = useState({ agent: "", capability: "" });
  const schema = useSchema(agents, agent, capability);
  const [error, setError] = useState(/** @type {any} */ (null));
  const capabilities = [...new Set(agents.flatMap((agent) => agent.capabilities.map((/** @type {any} */ one) => one.name)))].sort();
  const send = async (/** @type {any} */ event) => {
    event.preventDefault();
    const form = new FormData(event.target);
    setSending(true);
    try {
      const made = await call("POST", "/tasks", bodyOf(textsOf(form), filled(schema, form, TEXT)));
      location.hash = to(`task/${made.task_id}`);
    } catch (problem) {
      setError(problem);
    }
    setSending(false);
  };
  const look = (/** @type {any} */ event) => {
    const { agent: whom = "", capability: what = "" } = textsOf(new FormData(event.currentTarget));
    choose({ agent: whom, capability: what });
  };
  return html`<form class="stack" onSubmit=${send} onChange=${look}>
      <label>Capability <select name="capability"><option value="">that of the agent</option>${capabilities.map((name) => html`<option key=${name}>${name}</option>`)}</select></label>
      <${ChooseAgent} agents=${agents} isOptional=${true} />
      <label>Request <textarea name="text" rows="6" required=${schema?.required?.includes("text")}></textarea></label>
      <${Inputs} key=${`${agent}/${capability}`} schema=${schema} except=${TEXT} />
      <details><summary>More</summary><div class="stack">
      <label>Other fields of the payload (JSON) <textarea name="payload" rows="3" placeholder=${'{"repository": "billing"}'}></textarea></label>
      <label>It may cost at most, in dollars <input name="budget_usd" inputmode="decimal" size="8" pattern=${AMOUNT} /></label>
      <label>When that is spent <select name="on_empty"><option value="fail">it fails</option><option value="ask">it asks for more</option><option value="wait">it waits for more</option><option value="cheaper">it goes on with cheaper models</option></select></label>
      <label>Priority, 0 to 10 <input name="priority" type="number" min="0" max="10" defaultValue="5" /></label>
      <label>Seconds that it may take <input name="deadline" type="number" min="1" /></label>
      <label>Conversation (thread) <input name="thread_id" /></label>
      <label>After the end of task <input name="after" /></label></div></details>
      <${Failed} error=${error} />
      <button class="yes" title="Submits a task" disabled=${isSending}>Send</button>
    </form>`;
}

/** @param {FormData} form @returns {Record<string, string>} */
const textsOf = (form) => Object.fromEntries([...form].map(([name, value]) => [name, String(value).trim()]));

/** The task that a form describes; `fields` are those of its payload that the schema names. @param {Record<string, string>} given @param {Record<string, any>} fields */
function bodyOf({ text, payload, agent, capability, budget_usd, on_empty, priority, deadline, thread_id, after }, fields) {
  if (!agent && !capability) throw new Error("Choose a capability or an agent");
  const more = payload ? parsed("The payload", payload) : {};
  if (more === null || typeof more !== "object" || Array.isArray(more)) throw new Error("The payload is no JSON object: write {…}");
  const wanted = { agent_id: agent, capability, budget_usd, on_empty: on_empty === "fail" ? "" : on_empty, thread_id, after };
  return {
    ...Object.fromEntries(Object.entries(wanted).filter(([, value]) => value)),
    payload: { ...more, ...fields, ...(text ? { text } : {}) },
    ...(priority ? { priority: Number(priority) } : {}),
    ...(deadline ? { deadline: Number(deadline) } : {}),
  };
}
