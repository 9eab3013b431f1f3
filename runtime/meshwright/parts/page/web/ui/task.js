// @ts-check
/** A task: why it is as it is, its steps on a line of time, what was asked and answered, its tree with costs, and its events. */
import { html, useRef, useState } from "./vendor/preact.js";
import { settledHere } from "./answers.js";
import { Export } from "./export.js";
import Item from "./inbox_item.js";
import { isMoney, Money } from "./inbox_money.js";
import { Ago, callsOf, Count, dollars, Failed, may, notice, route, Shown, span, Status, Table, TaskLink, to, useData } from "./lib.js";
import { inLine, Written } from "./markdown.js";
import { Buttons, WAITS } from "./tasks.js";
import { Timeline } from "./timeline.js";
import { Tree } from "./tree.js";
import { Text } from "./unseen.js";

const TITLE_CHARS = 120;

/** The title that the agent set, else the first line of the request; where there are no words, what the task is for. @param {any} task */
function titleOf(task) {
  if (task.title) return task.title;
  const text = typeof task.payload.text === "string" ? task.payload.text : "";
  const line = inLine(text).split("\n").map((/** @type {string} */ one) => one.trim()).find(Boolean) ?? `Task for ${task.capability}`;
  return line.length > TITLE_CHARS ? `${line.slice(0, TITLE_CHARS - 1)}…` : line;
}

/** An error as a text; its message is among the contents. @param {any} error */
const worded = ({ type, message }) => [type, message].filter(Boolean).join(": ");

/** The view. */
export default function TaskPage() {
  const { id } = route.value;
  const { data, error } = useData(`/tasks/${id}`);
  if (!data) return html`<h1>Task</h1><${Failed} error=${error} />${error ? null : html`<p class="dim">Asking…</p>`}`;
  return html`<h1><${Text} value=${titleOf(data)} /> <${Status} status=${data.status} /></h1>
    <${Why} task=${data} />
    <${Failed} error=${error} />
    <${Facts} task=${data} />
    <p class="bar"><${Buttons} id=${id} status=${data.status} /> <${Export} id=${id} /> <${Copy} /></p>
    <${Timeline} task=${data}>
      <${Waits} task=${data} />
      <${Ended} outcome=${data.outcome} id=${id} />
      ${may("contents", "submitter") ? html`<h3>Request</h3><${Written} value=${typeof data.payload.text === "string" && Object.keys(data.payload).length === 1 ? data.payload.text : data.payload} />` : html`<p class="dim">Its request, steps and results are for the role contents.</p>`}
    <//>
    <${Tree} id=${id} />
    <${Attempts} attempts=${data.attempts} capability=${data.capability} />
    <${Events} id=${id} />`;
}

/** Why the task is as it is, in one line that keeps its height: its error, what it waits for, or what it does. @param {{task: any}} given */
function Why({ task }) {
  const { outcome, waits } = task;
  const last = task.attempts.at(-1);
  const line = (/** @type {any} */ text, bad = false) => html`<p class=${`why ${bad ? "bad" : ""}`} aria-live="polite">${text}</p>`;
  if (outcome?.error) return line(html`<${Text} value=${worded(outcome.error)} />`, true);
  if (outcome) return line(html`<${Text} value=${typeof outcome.result?.text === "string" ? inLine(outcome.result.text) : JSON.stringify(outcome.result ?? {})} />`);
  if (task.missing_agent) return line(`It waits for its agent ${task.missing_agent}, which is not loaded here: start it`, true);
  if (waits.length) {
    const { kind, reason, since, wait_id, child_task_id, due_at } = waits[0];
    return line(html`It waits for ${WAITS[/** @type {"person"} */ (kind)] ?? kind}${since ? html`, asked <${Ago} time=${since} />` : ""}${due_at ? html`, due <${Ago} time=${due_at} />` : ""}${child_task_id ? html` (<${TaskLink} id=${child_task_id} />)` : ""}${!reason ? "" : kind === "person" ? html`: <a href=${to("inbox", { item: wait_id })}><${Text} value=${reason} /></a>` : html`: <${Text} value=${reason} />`}${waits.length > 1 ? `, and for ${waits.length - 1} more` : ""}`);
  }
  if (task.state) return line(html`It is in <${Text} value=${task.state} />`);
  if (task.status === "running") return line(html`${last?.agent_id} works on it, begun <${Ago} time=${last?.started_at} />`);
  return line(task.after ? html`It begins once <${TaskLink} id=${task.after} /> has ended` : html`It waits for a free place at ${last?.agent_id ?? `an agent for ${task.capability}`}, accepted <${Ago} time=${task.created_at} />`);
}

/** @param {{task: any}} given */
function Facts({ task }) {
  const { outcome, task_id: id } = task;
  const last = task.attempts.at(-1);
  const tokens = outcome ? outcome.usage.prompt_tokens + outcome.usage.completion_tokens : 0;
  const facts = [
    ["agent", html`${last ? html`<a href=${to("tasks", { agent_id: last.agent_id })}>${last.agent_id}</a>` : "none yet"} for ${task.capability}`],
    ["requested by", html`${task.requested_by}${task.tenant_id === "default" ? "" : ` of ${task.tenant_id}`}, <${Ago} time=${task.created_at} />`],
    ["took", outcome ? span(outcome.duration_ms / 1000) : "–"],
    ["cost", outcome ? dollars(outcome.cost_usd) : "–"],
    ["tokens", outcome ? html`<${Count} value=${tokens} href=${callsOf({ task_id: id })} />` : "–"],
    ["model", outcome?.model],
    ["prompt", outcome?.prompt && html`<a href=${to("tasks", { prompt: outcome.prompt.split(" ")[0] })}>${outcome.prompt.split(" ")[0]}</a>`],
    ["delegated by", task.parent_task_id && html`<${TaskLink} id=${task.parent_task_id} />`],
    ["forked from", task.forked_from && html`<${TaskLink} id=${task.forked_from.task_id} /> behind step ${task.forked_from.step}`],
    ["thread", task.thread_id !== id && html`<a href=${to("tasks", { thread_id: task.thread_id })}><code>${task.thread_id}</code></a>`],
    ["worked on", task.generation > 1 && `${task.generation} times`],
    ["id", html`<code>${id}</code>`],
  ];
  return html`<dl class="meta">${facts.filter(([, value]) => value).map(([name, value]) => html`<div key=${name}><dt>${name}</dt><dd>${value}</dd></div>`)}</dl>`;
}

/** All that the task waits for, with the questions that may be answered here. @param {{task: any}} given */
function Waits({ task }) {
  const asks = task.waits.some((/** @type {any} */ wait) => wait.kind === "person" || isMoney(wait)) && may("contents");
  const { data } = useData(asks ? `/inbox?task_id=${task.task_id}` : null);
  const open = data?.items ?? [];
  const seen = useRef(/** @type {any[]} */ ([]));
  for (const question of open) {
    const at = seen.current.findIndex((one) => one.id === question.id);
    if (at < 0) seen.current.push(question);
    else seen.current[at] = question;
  }
  const isOpen = (/** @type {any} */ question) => open.some((/** @type {any} */ one) => one.id === question.id);
  const questions = seen.current.filter((question) => isOpen(question) || !settledHere.has(question.id));
  const ends = useData(questions.some((question) => !isOpen(question)) ? `/inbox?task_id=${task.task_id}&ended=true&limit=200` : null).data?.items ?? [];
  const endOf = (/** @type {any} */ question) => (isOpen(question) || (asks && !data) ? null : ends.find((/** @type {any} */ one) => one.id === question.id) ?? { status: "closed" });
  const named = new Set(questions.map((/** @type {any} */ question) => question.wait_id));
  if (!task.waits.length && !questions.length) return null;
  const others = task.waits.filter((/** @type {any} */ wait) => !named.has(wait.wait_id));
  return html`<h3>It waits</h3>${questions.map((/** @type {any} */ question) => html`<${Item} key=${question.id} question=${question} left=${endOf(question)} />`)}
    ${others.length ? html`<ul>${others.map((/** @type {any} */ wait) => html`<li key=${wait.wait_id}>for ${WAITS[/** @type {"person"} */ (wait.kind)] ?? wait.kind}${wait.child_task_id ? html` <${TaskLink} id=${wait.child_task_id} />` : ""}: <${Text} value=${wait.reason} /> ${wait.due_at ? html`<span class="dim">(due <${Ago} time=${wait.due_at} />)</span>` : ""} ${isMoney(wait) ? html`<${Money} question=${{ ...wait, task_id: task.task_id }} />` : ""}</li>`)}</ul>` : null}`;
}

/** @param {{outcome: any, id: string}} given */
function Ended({ outcome, id }) {
  if (!outcome) return null;
  const { result, error, files } = outcome;
  return html`${error ? html`<h3>Error</h3><p class="bad question"><${Text} value=${worded(error)} /></p>` : null}
    ${result ? html`<h3>Result</h3><${Written} value=${typeof result.text === "string" && Object.keys(result).length === 1 ? result.text : result} />` : null}
    ${files?.length ? html`<h3>Files</h3><ul>${files.map((/** @type {any} */ file, /** @type {number} */ at) => html`<li key=${at}><a href=${file.url ?? `/tasks/${id}/files/${at + 1}`} download>${file.name}</a> <span class="dim">${file.media_type}, ${file.size ?? "?"} bytes</span></li>`)}</ul>` : null}`;
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
      <td class="whole">${factors(attempt.score_card)}</td><td><${Ago} time=${attempt.started_at} /></td><td class="reason"><${Text} value=${attempt.error && worded(attempt.error)} /></td></tr>
      ${(attempt.others ?? []).map((/** @type {any} */ card) => html`<tr key=${`${attempt.attempt} ${card.agent_id}`} class="dim"><td>not chosen</td><td>${card.agent_id}</td><td class="number">${card.score.toFixed(2)}</td><td class="whole">${factors(card)}</td><td colspan="2"></td></tr>`)}`)}<//>
    ${may("viewer") ? html`<details onToggle=${(/** @type {any} */ event) => open(event.target.open)}><summary>How all agents score for ${capability} now</summary><${Failed} error=${error} />
      ${data ? html`<${Table} label="Scores" heads=${["Agent", "#Score", FACTORS.join(" × ")]}>${data.items.map((/** @type {any} */ card) => html`<tr key=${card.agent_id}><td>${card.agent_id}</td><td class="number">${card.score.toFixed(2)}</td><td class="whole">${factors(card)}</td></tr>`)}<//>` : null}</details>` : null}`;
}

/** Copies the address of this view, which can be sent to others. */
function Copy() {
  const copy = () => navigator.clipboard?.writeText(location.href).then(() => { notice.value = { text: "The link is copied" }; }, () => { notice.value = { text: `The link is ${location.href}` }; });
  return html`<button type="button" onClick=${copy}>Copy the link</button>`;
}

/** @param {{id: string}} given */
function Events({ id }) {
  const [isOpen, open] = useState(false);
  const { data, error } = useData(isOpen ? `/tasks/${id}/events?limit=500&lines=true` : null);
  return html`<details class="events" onToggle=${(/** @type {any} */ event) => open(event.target.open)}><summary><h2>Events</h2></summary>
    <${Failed} error=${error} />
    ${data ? html`<ol class="plain log">${data.items.map((/** @type {any} */ event, /** @type {number} */ at) => html`<li key=${event.seq} class="event"><details><summary><time datetime=${event.time}>${new Date(event.time).toLocaleTimeString()}</time> <b>${event.event_type}</b> <span class="text"><${Text} value=${data.lines[at]} /></span></summary><${Shown} value=${event.payload} /></details></li>`)}</ol>` : null}
  </details>`;
}
