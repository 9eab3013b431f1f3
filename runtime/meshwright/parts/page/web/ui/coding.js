// @ts-check
/** The sessions of a coding agent: how each began and ended, its commands with their exit codes, and its cost. */
import { html } from "./vendor/preact.js";
import { asked, dollars, Failed, Table, to, useData } from "./lib.js";
import { Text } from "./unseen.js";

const EVENTS = 500;
const BEGINNINGS = { new: "begins", resumed: "goes on with its session", restarted: "begins again from the tree" };

/** @param {string} id @param {string} kind */
const useEvents = (id, kind) => useData(`/events?${asked({ task_id: id, event_type: `coding.${kind}`, limit: EVENTS })}`);

/** Nothing for a task without such sessions. @param {{id: string, steps: any[]}} given */
export const Coding = ({ id, steps }) => (steps.some((step) => step.name === "coding session") ? html`<${Sessions} id=${id} steps=${steps} />` : null);

/** @param {{id: string, steps: any[]}} given */
function Sessions({ id, steps }) {
  const answers = [useEvents(id, "session"), useEvents(id, "call"), useEvents(id, "permission"), useEvents(id, "turn")];
  const events = answers.flatMap(({ data }) => data?.items ?? []).sort((one, other) => one.seq - other.seq);
  const begins = events.filter((event) => event.event_type === "coding.session").map((event) => Date.parse(event.time));
  const costOf = (/** @type {number} */ number) => {
    const paid = steps.filter((step) => step.cost_usd != null && step.calls && Date.parse(step.started_at) >= begins[number] && !(Date.parse(step.started_at) >= begins[number + 1]));
    return paid.length ? dollars(paid.reduce((sum, step) => sum + Number(step.cost_usd), 0)) : "";
  };
  let number = -1;
  return html`<h3>Coding sessions</h3><${Failed} error=${answers.find(({ error }) => error)?.error} />
    <${Table} label="Coding sessions" heads=${["Command or change", "#Result"]}>${events.map((event) => {
      const { attempt, path } = event.payload;
      const [kind, text, result] = rowOf(event, () => costOf((number += 1)));
      return html`<tr key=${event.seq}><td><a href=${to(`task/${id}`, { step: `${attempt}/${path}` })}>${kind}</a> ${text}</td><td class="number">${result}</td></tr>`;
    })}<//>`;
}

/** The kind of a row, its text and its result. @param {any} event @param {() => string} cost @returns {any[]} */
function rowOf({ event_type, payload }, cost) {
  if (event_type === "coding.session") return ["session", html`<b><${Text} value=${payload.agent || payload.program} /> ${BEGINNINGS[/** @type {"new"} */ (payload.how)]}</b>`, cost()];
  if (event_type === "coding.permission") return ["permission", html`<${Text} value=${payload.title} />`, payload.allowed ? "allowed" : html`<span class="bad">denied</span>`];
  if (event_type === "coding.turn") return ["turn", html`<${Text} value=${payload.text} />`, html`<span class=${payload.reason === "end_turn" ? "" : "bad"}>${payload.reason.replaceAll("_", " ")}</span>`];
  const result = payload.exit_code == null ? payload.status : `exit code ${payload.exit_code}`;
  const paths = (payload.paths ?? []).filter((/** @type {string} */ path) => !payload.title.includes(path));
  return [payload.kind, html`<code><${Text} value=${payload.title} /></code>${paths.length ? html` <span class="dim"><${Text} value=${paths.join(", ")} /></span>` : ""}`, payload.status === "failed" || payload.exit_code ? html`<span class="bad">${result}</span>` : result];
}
