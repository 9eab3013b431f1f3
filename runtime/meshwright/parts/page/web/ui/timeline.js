// @ts-check
/** The steps of a task on a line of time, to scale, with their waits and costs; the chosen one is beside them. */
import { html } from "./vendor/preact.js";
import { Coding } from "./coding.js";
import { Ago, asked, dollars, Failed, may, route, span, Status, to, useData } from "./lib.js";
import { keyOf, Step } from "./steps.js";
import { WAITS } from "./tasks.js";
import { Text } from "./unseen.js";

const STEPS = 500;
const SIGNS = { context: "○", model: "◆", tool: "⚙", delegate: "↳", step: "▪" };

/**
 * When the work on a task began and how long its longest generation took, in milliseconds: the time between two
 * generations, until a person retries, is left out.
 * @param {any} task @param {any[]} steps
 */
function scaleOf(task, steps) {
  /** @type {Map<number, {from: number, to: number}>} */
  const generations = new Map();
  const ofAttempt = new Map(task.attempts.map((/** @type {any} */ one) => [one.attempt, one.generation]));
  const add = (/** @type {number} */ generation, /** @type {(string | null)[]} */ ...times) => {
    const known = times.filter(Boolean).map((time) => Date.parse(String(time)));
    const one = generations.get(generation);
    generations.set(generation, { from: Math.min(one?.from ?? Infinity, ...known), to: Math.max(one?.to ?? 0, ...known) });
  };
  add(1, task.created_at);
  for (const { generation, started_at, ended_at } of task.attempts) add(generation, started_at, ended_at);
  for (const step of steps) if (!step.is_copied) add(ofAttempt.get(step.attempt), step.started_at, step.ended_at);
  add(task.generation, task.outcome ? task.outcome.completed_at : new Date().toISOString());
  const whole = Math.max(1, ...[...generations.values()].map(({ from, to: end }) => end - from));
  return { whole, fromOf: (/** @type {number} */ attempt) => generations.get(ofAttempt.get(attempt) ?? 1)?.from ?? 0, last: generations.get(task.generation) };
}

/** The place of a span of time in a row. @param {number} from @param {number} until @param {number} whole */
function place(from, until, whole) {
  const start = Math.min(Math.max(0, from), whole);
  return { left: `min(${(100 * start) / whole}%, 100% - 3px)`, width: `${(100 * Math.max(0, Math.min(until, whole) - start)) / whole}%` };
}

/** The timeline, and beside it the chosen step, else what `children` show of the whole task. @param {{task: any, children?: any}} given */
export function Timeline({ task, children }) {
  const { data, error } = useData(may("contents", "submitter") ? `/tasks/${task.task_id}/steps?${asked({ limit: STEPS })}` : null);
  const steps = data?.items ?? [];
  const named = route.value.query.get("step") ?? "";
  const at = steps.findIndex((/** @type {any} */ step) => keyOf(step) === named);
  const href = (/** @type {any} */ step) => to(`task/${task.task_id}`, step ? { step: keyOf(step) } : {});
  const all = [null, ...steps];
  return html`<section class="trace" aria-label="Timeline"><div class="trace-body">
    <div class="rows"><${Failed} error=${error} /><${Rows} task=${task} steps=${steps} at=${at} href=${href} isCut=${Boolean(data?.cursor)} /></div>
    <div class="chosen" role="region" aria-label=${at < 0 ? "The whole task" : `Step ${named}`} tabindex="0">
      <nav class="pager" aria-label="Steps"><h2>${at < 0 ? "The whole task" : html`${steps[at].kind} ${steps[at].name} <span class="dim">${named}</span>`}</h2>
        ${at >= 0 ? html`<a href=${href(all[at])} aria-keyshortcuts="k" data-always="1">Previous</a>` : null}
        ${at + 1 < steps.length ? html`<a href=${href(steps[at + 1])} aria-keyshortcuts="j" data-always="1">Next</a>` : null}
        ${at >= 0 ? html`<a href=${href(null)}>Whole task</a>` : null}</nav>
      <div class="chosen-body">${at < 0 ? [children, html`<${Coding} key="coding" id=${task.task_id} steps=${steps} />`] : html`<${Step} key=${named} id=${task.task_id} step=${steps[at]} />`}</div>
    </div>
  </div></section>`;
}

/** The whole task, then each step, behind its attempt where there are several. @param {{task: any, steps: any[], at: number, href: (step: any) => string, isCut: boolean}} given */
function Rows({ task, steps, at, href, isCut }) {
  const { whole, fromOf, last } = scaleOf(task, steps);
  const most = Math.max(0, ...steps.map((step) => Number(step.cost_usd ?? 0)));
  const cost = task.outcome ? task.outcome.cost_usd : steps.reduce((sum, step) => sum + Number(step.cost_usd ?? 0), 0);
  const marks = [0, 0.5, 1].map((part) => html`<span key=${part}>${part ? span((part * whole) / 1000) : "0"}</span>`);
  const row = (/** @type {any} */ step, /** @type {number} */ number) => html`<${Row} key=${keyOf(step)} step=${step} isOpen=${task.status === "running"} isChosen=${number === at} href=${href(step)} whole=${whole} from=${fromOf(step.attempt)} most=${most} />`;
  const groups = task.attempts.length > 1 ? task.attempts : [null];
  return html`<div class="scale-row" aria-hidden="true"><span></span><span class="marks">${marks}</span><span>took</span><span>cost</span></div>
    <ol aria-label="Steps">
      <li class=${at < 0 ? "is-chosen" : ""}><a href=${href(null)} aria-current=${at < 0 ? "true" : undefined}><span class="what"><b>The whole task</b></span>
        <span class="track"><i class="k-whole" style=${last ? place(0, last.to - last.from, whole) : {}}></i></span>
        <span class="number">${last ? span((last.to - last.from) / 1000) : ""}</span><span class="number">${dollars(cost)}</span></a></li>
      ${groups.map((/** @type {any} */ attempt) => html`${attempt ? html`<${Attempt} key=${`attempt ${attempt.attempt}`} attempt=${attempt} />` : null}${steps.map((step, number) => (!attempt || step.attempt === attempt.attempt ? row(step, number) : null))}`)}
      ${isCut ? html`<li class="dim between">Only the first ${STEPS} steps are shown.</li>` : null}
    </ol>`;
}

/** @param {{attempt: any}} given */
const Attempt = ({ attempt }) =>
  html`<li class="between"><b>Attempt ${attempt.attempt}</b> <span class="dim">${attempt.agent_id}, <${Ago} time=${attempt.started_at} />${attempt.continues ? `, behind the steps of attempt ${attempt.continues}` : ""}</span>${attempt.error ? html` <span class="bad"><${Text} value=${`${attempt.error.type}: ${attempt.error.message}`} /></span>` : null}</li>`;

/** A step in a line. @param {{step: any, isOpen: boolean, isChosen: boolean, href: string, whole: number, from: number, most: number}} given */
function Row({ step, isOpen, isChosen, href, whole, from, most }) {
  const now = Date.now();
  const isTriedAgain = isOpen && step.error && Date.parse(step.waits.at(-1)?.ended_at) > Date.parse(step.ended_at); // the wait for a model is over
  const until = step.ended_at && !isTriedAgain ? Date.parse(step.ended_at) : now;
  const began = step.started_at ? Date.parse(step.started_at) : until;
  const text = step.error ?? step.summary;
  const waits = step.waits.map((/** @type {any} */ wait) => [Date.parse(wait.since), wait.ended_at ? Date.parse(wait.ended_at) : now, wait.kind]);
  const tip = [text, ...waits.map((/** @type {any} */ [start, end, kind]) => `waited ${span((end - start) / 1000)} for ${WAITS[/** @type {"person"} */ (kind)] ?? kind}`)].filter(Boolean).join("\n");
  const took = waits.length || step.duration_ms == null ? (until - Math.min(began, ...waits.map((/** @type {any} */ [start]) => start))) / 1000 : step.duration_ms / 1000;
  const cost = Number(step.cost_usd ?? 0);
  return html`<li id=${`step-${keyOf(step)}`} class=${isChosen ? "is-chosen" : ""}><a href=${href} aria-current=${isChosen ? "true" : undefined} title=${tip}>
    <span class=${`what ${step.error && !isTriedAgain ? "bad" : ""}`} style=${{ paddingLeft: `${12 * (step.path.split(".").length - 1)}px` }}><span aria-hidden="true">${SIGNS[/** @type {"tool"} */ (step.kind)] ?? "▪"}</span> <b>${step.name || step.kind}</b>${step.status === "done" ? null : html` <${Status} status=${isTriedAgain ? "running" : step.status} />`}${step.calls > 1 ? html` <span class="tag">${step.calls} calls</span>` : null}${step.is_copied ? html` <span class="tag">copied</span>` : null}${step.cache_hit ? html` <span class="tag">cache</span>` : null} <span class="dim"><${Text} value=${text} /></span></span>
    <span class="track">${step.is_copied ? null : html`<i class=${`k-${step.error && !isTriedAgain ? "failed" : step.kind}`} style=${place(began - from, until - from, whole)}></i>${waits.map((/** @type {any} */ [start, end]) => html`<i class="k-wait" key=${start} style=${place(start - from, end - from, whole)}></i>`)}`}</span>
    <span class="number">${span(took)}</span>
    <span class="number">${step.cost_usd == null || !step.calls ? "" : html`<span class="share" style=${{ "--share": `${most ? (100 * cost) / most : 0}%` }}>${dollars(step.cost_usd)}</span>`}</span></a></li>`;
}
