// @ts-check
/** A task: what was asked and answered, its tree with costs, its steps on a line of time, and its events. */
import { html, useState } from "./vendor/preact.js";
import { act, Ago, asked, call, dollars, Failed, may, route, Shown, span, Status, TaskLink, to, useData } from "./lib.js";
import { Buttons } from "./tasks.js";

const STEPS = 500;

/** The view. */
export function TaskPage() {
  const { id } = route.value;
  const { data, error } = useData(`/tasks/${id}`);
  if (!data) return html`<h1>Task</h1><${Failed} error=${error} />${error ? null : html`<p class="dim">Asking…</p>`}`;
  const last = data.attempts.at(-1);
  return html`<h1>Task <code>…${id.slice(-6)}</code> <${Status} status=${data.status} /></h1>
    <${Failed} error=${error} />
    <dl class="facts">
      <dt>id</dt><dd><code>${id}</code></dd>
      <dt>agent</dt><dd>${last ? html`<a href=${to("tasks", { agent_id: last.agent_id })}>${last.agent_id}</a>` : "none yet"} for ${data.capability}</dd>
      <dt>requested by</dt><dd>${data.requested_by}${data.tenant_id === "default" ? "" : ` of ${data.tenant_id}`}, <${Ago} time=${data.created_at} /></dd>
      ${data.parent_task_id ? html`<dt>delegated by</dt><dd><${TaskLink} id=${data.parent_task_id} /></dd>` : null}
      ${data.forked_from ? html`<dt>forked from</dt><dd><${TaskLink} id=${data.forked_from.task_id} /> behind step ${data.forked_from.step}</dd>` : null}
      ${data.thread_id === id ? null : html`<dt>thread</dt><dd><a href=${to("tasks", { thread_id: data.thread_id })}><code>${data.thread_id}</code></a></dd>`}
      ${data.state ? html`<dt>it is in</dt><dd>${data.state}</dd>` : null}
      ${data.outcome ? html`<dt>cost</dt><dd>${dollars(data.outcome.cost_usd)}, ${data.outcome.usage.prompt_tokens + data.outcome.usage.completion_tokens} tokens, ${span(data.outcome.duration_ms / 1000)}${data.outcome.model ? `, ${data.outcome.model}` : ""}</dd>` : null}
      ${data.outcome?.prompt ? html`<dt>prompt</dt><dd><a href=${to("tasks", { prompt: data.outcome.prompt.split(" ")[0] })}>${data.outcome.prompt}</a></dd>` : null}
      ${data.generation > 1 ? html`<dt>worked on</dt><dd>${data.generation} times</dd>` : null}
    </dl>
    <p class="bar"><${Buttons} id=${id} status=${data.status} /> ${["failed", "timed_out", "cancelled"].includes(data.status) && may("operator", "submitter") ? html`<button type="button" onClick=${() => act("It begins at the start", () => call("POST", `/tasks/${id}/retry`, { begin: "start" }))}>Retry from the start</button>` : null} <${Export} id=${id} task=${data} /></p>
    ${data.waits.length ? html`<h2>It waits</h2><ul>${data.waits.map((/** @type {any} */ wait) => html`<li key=${wait.wait_id}>for ${wait.kind}${wait.child_task_id ? html` <${TaskLink} id=${wait.child_task_id} />` : ""}: ${wait.reason} ${wait.due_at ? html`<span class="dim"><${Ago} time=${wait.due_at} /></span>` : ""} ${wait.kind === "person" ? html`<a href="#/inbox">Inbox</a>` : ""}</li>`)}</ul>` : null}
    <h2>Request</h2><${Shown} value=${typeof data.payload.text === "string" && Object.keys(data.payload).length === 1 ? data.payload.text : data.payload} />
    <${Ended} outcome=${data.outcome} id=${id} />
    <${Tree} id=${id} />
    <${Steps} id=${id} />
    <${Attempts} attempts=${data.attempts} />
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

/** @param {{id: string}} given */
function Tree({ id }) {
  const { data } = useData(`/tasks/${id}/tree`);
  if (!data || data.items.length < 2) return null;
  return html`<h2>Delegated <span class="dim">${dollars(data.items[0].tree_cost_usd)} in all</span></h2>
    <div class="wide-table" tabindex="0" role="region" aria-label="Delegated tasks"><table><thead><tr><th>Task</th><th>Agent</th><th>State</th><th class="number">Own cost</th><th class="number">With those below</th><th class="number">Time</th></tr></thead>
    <tbody>${data.items.map((/** @type {any} */ node) => html`<tr key=${node.task_id}><td style=${{ paddingLeft: `${node.depth * 1.5 + 0.5}rem` }}><${TaskLink} id=${node.task_id} /></td><td>${node.agent_id}</td><td><${Status} status=${node.status} /></td><td class="number">${dollars(node.cost_usd)}</td><td class="number">${dollars(node.tree_cost_usd)}</td><td class="number">${node.duration_ms == null ? "" : span(node.duration_ms / 1000)}</td></tr>`)}</tbody></table></div>
    ${data.omitted ? html`<p class="dim">${data.omitted} more</p>` : null}`;
}

/** @param {{id: string}} given */
function Steps({ id }) {
  const { data, error } = useData(may("contents", "submitter") ? `/tasks/${id}/steps?${asked({ limit: STEPS })}` : null);
  const [open, setOpen] = useState("");
  if (!data) return html`<${Failed} error=${error} />`;
  if (!data.items.length) return null;
  const times = data.items.flatMap((/** @type {any} */ step) => [step.started_at, step.ended_at]).filter(Boolean).map(Date.parse);
  const from = Math.min(...times);
  const whole = Math.max(Math.max(...times) - from, 1);
  const bar = (/** @type {any} */ step) => {
    if (!step.started_at) return {};
    const began = Date.parse(step.started_at) - from;
    const ended = (step.ended_at ? Date.parse(step.ended_at) : Date.now()) - from;
    return { marginLeft: `${(100 * began) / whole}%`, width: `max(2px, ${(100 * Math.max(0, Math.min(ended, whole) - began)) / whole}%)` };
  };
  return html`<h2>Steps <span class="dim">${data.items.length}${data.cursor ? "+" : ""} in ${span(whole / 1000)}</span></h2>
    <div class="wide-table" tabindex="0" role="region" aria-label="Steps"><table class="steps"><thead><tr><th>Step</th><th>What</th><th>State</th><th>When</th><th class="number">Tokens</th><th class="number">Cost</th><th>Summary</th></tr></thead>
    <tbody>${data.items.map((/** @type {any} */ step) => {
      const key = `${step.attempt}/${step.path}`;
      return html`<tr key=${key}><td><button type="button" class="plain" aria-expanded=${open === key} onClick=${() => setOpen(open === key ? "" : key)}>${key}</button></td>
        <td>${step.kind}${step.name ? html` <b>${step.name}</b>` : ""}${step.child_task_id ? html` <${TaskLink} id=${step.child_task_id} />` : ""}</td>
        <td><${Status} status=${step.status} /></td>
        <td class="gantt" title=${step.duration_ms == null ? "" : span(step.duration_ms / 1000)}><div class=${`k-${step.kind}`} style=${bar(step)}></div></td>
        <td class="number">${tokens(step)}</td><td class="number">${step.cost_usd == null ? "" : dollars(step.cost_usd)}</td>
        <td class="reason" title=${step.summary}>${step.summary}</td></tr>
        ${open === key ? html`<tr key=${`${key} open`}><td colspan="7"><${Step} id=${id} step=${step} /></td></tr>` : null}`;
    })}</tbody></table></div>`;
}

/** @param {any} step */
function tokens(step) {
  const usage = step.usage ?? step;
  const sum = (usage.prompt_tokens ?? 0) + (usage.completion_tokens ?? 0);
  return sum || "";
}

/** One step with what was said. @param {{id: string, step: any}} given */
function Step({ id, step }) {
  const { data, error } = useData(`/tasks/${id}/steps/${encodeURIComponent(step.path)}?${asked({ attempt: step.attempt })}`);
  const fork = () =>
    act("A fork goes on behind this step", async () => {
      const made = await call("POST", `/tasks/${id}/fork`, { step: step.path, attempt: step.attempt });
      location.hash = to(`task/${made.task_id}`);
    });
  return html`<${Failed} error=${error} />
    ${data ? html`
      ${data.prompt ? html`<p class="dim">prompt ${data.prompt}</p>` : null}
      ${data.error ? html`<p class="bad">${data.error}</p>` : null}
      ${(data.messages ?? []).map((/** @type {any} */ message, /** @type {number} */ at) => html`<details key=${at} open=${at >= data.messages.length - (data.new_messages ?? 1)}><summary>${message.role}</summary><${Shown} value=${message.content ?? message.tool_calls ?? ""} /></details>`)}
      ${data.arguments == null ? null : html`<h3>Arguments</h3><${Shown} value=${data.arguments} />`}
      ${data.reply == null ? null : html`<h3>Reply</h3><${Shown} value=${data.reply.content || data.reply} />`}
      ${data.result == null ? null : html`<h3>Result</h3><${Shown} value=${data.result} />`}
      ${(data.notes ?? []).map((/** @type {string} */ note) => html`<p class="dim" key=${note}>${note}</p>`)}
      ${may("submitter") && step.status === "done" ? html`<button type="button" onClick=${fork}>Fork from here</button>` : null}` : null}`;
}

/** Who was asked, and how each agent scored. @param {{attempts: any[]}} given */
function Attempts({ attempts }) {
  if (!attempts.length) return null;
  return html`<h2>Attempts</h2><div class="wide-table" tabindex="0" role="region" aria-label="Attempts"><table><thead><tr><th>Attempt</th><th>Agent</th><th class="number">Score</th><th>Weight, health, success, streak, preferred</th><th>Began</th><th>Error</th></tr></thead>
    <tbody>${attempts.map((attempt) => html`<tr key=${attempt.attempt}><td>${attempt.attempt}</td><td>${attempt.agent_id}</td><td class="number">${attempt.score_card.score.toFixed(2)}</td>
      <td>${["weight", "health", "success", "streak", "preferred"].map((name) => Number(attempt.score_card[name]).toFixed(2)).join(" × ")}</td><td><${Ago} time=${attempt.started_at} /></td><td class="reason">${attempt.error ? `${attempt.error.type}: ${attempt.error.message}` : ""}</td></tr>`)}</tbody></table></div>`;
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

/** The task with its steps as a file. @param {{id: string, task: any}} given */
function Export({ id, task }) {
  if (!may("contents", "submitter")) return null;
  const save = () =>
    act("It is saved", async () => {
      const steps = await call("GET", `/tasks/${id}/steps?${asked({ limit: STEPS, contents: true })}`);
      const tree = await call("GET", `/tasks/${id}/tree`);
      const data = new Blob([JSON.stringify({ task, steps: steps.items, tree: tree.items }, null, 2)], { type: "application/json" });
      const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(data), download: `task-${id}.json` });
      link.click();
      URL.revokeObjectURL(link.href);
    });
  return html`<button type="button" onClick=${save}>Save as a file</button>`;
}
