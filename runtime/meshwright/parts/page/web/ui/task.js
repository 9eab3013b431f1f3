// @ts-check
/** A task: what was asked and answered, its tree with costs, its steps on a line of time, and its events. */
import { html, useState } from "./vendor/preact.js";
import { Export } from "./export.js";
import { isMoney, Money } from "./inbox_money.js";
import { act, Ago, call, callsOf, Count, dollars, Failed, may, notice, route, Shown, span, Status, Table, TaskLink, to, useData } from "./lib.js";
import { Steps } from "./steps.js";
import { Buttons } from "./tasks.js";
import { Tree } from "./tree.js";
import { Text } from "./unseen.js";

const TITLE_CHARS = 120;

/** The first line of the request; where there are no words, what the task is for. @param {any} task */
function titleOf(task) {
  const text = typeof task.payload.text === "string" ? task.payload.text : "";
  const line = text.split("\n").map((/** @type {string} */ one) => one.trim()).find(Boolean) ?? `Task for ${task.capability}`;
  return line.length > TITLE_CHARS ? `${line.slice(0, TITLE_CHARS - 1)}…` : line;
}

const AGAIN = [
  ["journal", "Retry, keep its finished steps", "It goes on behind its finished steps"],
  ["start", "Retry, repeat all its steps", "It begins at the start"],
];

/** The view. */
export function TaskPage() {
  const { id } = route.value;
  const { data, error } = useData(`/tasks/${id}`);
  if (!data) return html`<h1>Task</h1><${Failed} error=${error} />${error ? null : html`<p class="dim">Asking…</p>`}`;
  const last = data.attempts.at(-1);
  return html`<h1><${Text} value=${titleOf(data)} /> <${Status} status=${data.status} /></h1>
    <${Failed} error=${error} />
    <dl class="facts">
      <dt>id</dt><dd><code>${id}</code></dd>
      <dt>agent</dt><dd>${last ? html`<a href=${to("tasks", { agent_id: last.agent_id })}>${last.agent_id}</a>` : "none yet"} for ${data.capability}</dd>
      <dt>requested by</dt><dd>${data.requested_by}${data.tenant_id === "default" ? "" : ` of ${data.tenant_id}`}, <${Ago} time=${data.created_at} /></dd>
      ${data.parent_task_id ? html`<dt>delegated by</dt><dd><${TaskLink} id=${data.parent_task_id} /></dd>` : null}
      ${data.forked_from ? html`<dt>forked from</dt><dd><${TaskLink} id=${data.forked_from.task_id} /> behind step ${data.forked_from.step}</dd>` : null}
      ${data.thread_id === id ? null : html`<dt>thread</dt><dd><a href=${to("tasks", { thread_id: data.thread_id })}><code>${data.thread_id}</code></a></dd>`}
      ${data.state ? html`<dt>it is in</dt><dd>${data.state}</dd>` : null}
      ${data.outcome ? html`<dt>cost</dt><dd>${dollars(data.outcome.cost_usd)}, <${Count} value=${data.outcome.usage.prompt_tokens + data.outcome.usage.completion_tokens} href=${callsOf({ task_id: id })} /> tokens, ${span(data.outcome.duration_ms / 1000)}${data.outcome.model ? `, ${data.outcome.model}` : ""}</dd>` : null}
      ${data.outcome?.prompt ? html`<dt>prompt</dt><dd><a href=${to("tasks", { prompt: data.outcome.prompt.split(" ")[0] })}>${data.outcome.prompt}</a></dd>` : null}
      ${data.generation > 1 ? html`<dt>worked on</dt><dd>${data.generation} times</dd>` : null}
    </dl>
    <p class="bar"><${Buttons} id=${id} status=${data.status} /> ${["failed", "timed_out", "cancelled"].includes(data.status) && may("operator", "submitter") ? AGAIN.map(([begin, label, said]) => html`<button key=${begin} type="button" onClick=${() => act(said, () => call("POST", `/tasks/${id}/retry`, { begin }))}>${label}</button>`) : null} <${Export} id=${id} /> <${Copy} /></p>
    ${data.waits.length ? html`<h2>It waits</h2><ul>${data.waits.map((/** @type {any} */ wait) => html`<li key=${wait.wait_id}>for ${wait.kind}${wait.child_task_id ? html` <${TaskLink} id=${wait.child_task_id} />` : ""}: <${Text} value=${wait.reason} /> ${wait.due_at ? html`<span class="dim">(due <${Ago} time=${wait.due_at} />)</span>` : ""} ${wait.kind === "person" || wait.subject?.on_empty === "ask" ? html`<a href="#/inbox">Inbox</a>` : isMoney(wait) ? html`<${Money} question=${{ ...wait, task_id: id }} />` : ""}</li>`)}</ul>` : null}
    <h2>Request</h2><${Shown} value=${typeof data.payload.text === "string" && Object.keys(data.payload).length === 1 ? data.payload.text : data.payload} />
    <${Ended} outcome=${data.outcome} id=${id} />
    <${Tree} id=${id} />
    <${Steps} id=${id} isOpen=${!data.outcome} />
    <${Attempts} attempts=${data.attempts} capability=${data.capability} />
    <${Events} id=${id} />`;
}

/** @param {{outcome: any, id: string}} given */
function Ended({ outcome, id }) {
  if (!outcome) return null;
  const { result, error, files } = outcome;
  return html`${error ? html`<h2>Error</h2><p class="bad">${error.type}: ${error.message}</p>` : null}
    ${result ? html`<h2>Result</h2><${Shown} value=${typeof result.text === "string" && Object.keys(result).length === 1 ? result.text : result} />` : null}
    ${files?.length ? html`<h2>Files</h2><ul>${files.map((/** @type {any} */ file, /** @type {number} */ at) => html`<li key=${at}><a href=${file.url ?? `/tasks/${id}/files/${at + 1}`} download>${file.name}</a> <span class="dim">${file.media_type}, ${file.size ?? "?"} bytes</span></li>`)}</ul>` : null}`;
}

const FACTORS = ["weight", "health", "success", "streak", "preferred"];

/** Who was asked, how each agent scored and those that were not chosen then, and how all score now. @param {{attempts: any[], capability: string}} given */
function Attempts({ attempts, capability }) {
  const [isOpen, open] = useState(false);
  const { data, error } = useData(isOpen ? `/agents/score/${encodeURIComponent(capability)}` : null);
  if (!attempts.length) return null;
  const factors = (/** @type {any} */ card) => FACTORS.map((name) => Number(card[name]).toFixed(2)).join(" × ");
  return html`<h2>Attempts</h2><${Table} label="Attempts" heads=${["Attempt", "Agent", "#Score", FACTORS.join(" × "), "Began", "Error"]}>
    ${attempts.map((attempt) => html`<tr key=${attempt.attempt}><td>${attempt.attempt}</td><td>${attempt.agent_id}</td><td class="number">${attempt.score_card.score.toFixed(2)}</td>
      <td>${factors(attempt.score_card)}</td><td><${Ago} time=${attempt.started_at} /></td><td class="reason">${attempt.error ? `${attempt.error.type}: ${attempt.error.message}` : ""}</td></tr>
      ${(attempt.others ?? []).map((/** @type {any} */ card) => html`<tr key=${`${attempt.attempt} ${card.agent_id}`} class="dim"><td>not chosen</td><td>${card.agent_id}</td><td class="number">${card.score.toFixed(2)}</td><td>${factors(card)}</td><td colspan="2"></td></tr>`)}`)}<//>
    ${may("viewer") ? html`<details onToggle=${(/** @type {any} */ event) => open(event.target.open)}><summary>How all agents score for ${capability} now</summary><${Failed} error=${error} />
      ${data ? html`<${Table} label="Scores" heads=${["Agent", "#Score", FACTORS.join(" × ")]}>${data.items.map((/** @type {any} */ card) => html`<tr key=${card.agent_id}><td>${card.agent_id}</td><td class="number">${card.score.toFixed(2)}</td><td>${factors(card)}</td></tr>`)}<//>` : null}</details>` : null}`;
}

/** Copies the address of this view, which can be sent to others. */
function Copy() {
  const copy = () => navigator.clipboard?.writeText(location.href).then(() => { notice.value = { text: "The link is copied" }; }, () => { notice.value = { text: `The link is ${location.href}` }; });
  return html`<button type="button" onClick=${copy}>Copy the link</button>`;
}

/** @param {{id: string}} given */
function Events({ id }) {
  const [isOpen, open] = useState(false);
  const { data, error } = useData(isOpen ? `/tasks/${id}/events?limit=500` : null);
  return html`<details class="events" onToggle=${(/** @type {any} */ event) => open(event.target.open)}><summary><h2>Events</h2></summary>
    <${Failed} error=${error} />
    ${data ? html`<ol class="plain">${data.items.map((/** @type {any} */ event) => html`<li key=${event.seq}><details><summary><time datetime=${event.time}>${new Date(event.time).toLocaleTimeString()}</time> ${event.event_type}</summary><${Shown} value=${event.payload} /></details></li>`)}</ol>` : null}
  </details>`;
}
