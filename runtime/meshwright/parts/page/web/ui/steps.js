// @ts-check
/** The steps of a task: in one line, on a line of time, and each with all that was said. */
import { html, useEffect, useState } from "./vendor/preact.js";
import { differing } from "./diff.js";
import { ask } from "./dialog.js";
import { asked, call, dollars, Failed, may, Shown, span, Status, Table, TaskLink, to, useData, useOnce } from "./lib.js";
import { Text } from "./unseen.js";

const STEPS = 500;
const SIGNS = { context: "○", model: "◆", tool: "⚙", delegate: "↳", step: "▪" };

/** @param {any} step */
const keyOf = (step) => `${step.attempt}/${step.path}`;
/** @param {any} step */
const tokens = (step) => step.usage.prompt_tokens + step.usage.completion_tokens;

/** All views of the steps of a task. @param {{id: string, isOpen: boolean}} given */
export function Steps({ id, isOpen }) {
  const { data, error } = useData(may("contents", "submitter") ? `/tasks/${id}/steps?${asked({ limit: STEPS })}` : null);
  const [open, setOpen] = useState("");
  if (!data) return html`<${Failed} error=${error} />`;
  if (!data.items.length) return null;
  const show = (/** @type {string} */ key) => {
    setOpen(key);
    setTimeout(() => document.getElementById(`step-${key}`)?.scrollIntoView({ block: "nearest" }));
  };
  return html`<${Compact} steps=${data.items} isOpen=${isOpen} show=${show} /><${Line} id=${id} steps=${data.items} isCut=${Boolean(data.cursor)} open=${open} setOpen=${setOpen} />`;
}

/** Equal steps in a row as one: what was done, in one line. @param {any[]} steps @returns {{steps: any[], kind: string, name: string}[]} */
export function compacted(steps) {
  /** @type {{steps: any[], kind: string, name: string}[]} */
  const groups = [];
  for (const step of steps) {
    const last = groups.at(-1);
    if (last && last.kind === step.kind && last.name === step.name && last.steps[0].attempt === step.attempt) last.steps.push(step);
    else groups.push({ steps: [step], kind: step.kind, name: step.name });
  }
  return groups;
}

/** @param {{steps: any[], isOpen: boolean, show: (key: string) => void}} given */
function Compact({ steps, isOpen, show }) {
  const groups = compacted(steps.filter((step) => step.kind !== "context"));
  return html`<ol class="compact" aria-label="Steps in one line">${groups.map((group) => {
    const bad = group.steps.find((step) => step.error || step.status === "failed");
    const cost = group.steps.reduce((sum, step) => sum + Number(step.cost_usd ?? 0), 0);
    const shown = bad ?? group.steps[0];
    return html`<li key=${keyOf(group.steps[0])}><button type="button" class=${`plain ${bad ? "bad" : ""}`} title=${shown.error ?? shown.summary} onClick=${() => show(keyOf(shown))}><span aria-hidden="true">${SIGNS[/** @type {"tool"} */ (group.kind)] ?? "▪"}</span> ${group.name || group.kind}${group.steps.length > 1 ? ` ×${group.steps.length}` : ""}${cost ? html` <span class="dim">${dollars(cost)}</span>` : ""}</button></li>`;
  })}${isOpen ? html`<li class="dim">it goes on</li>` : null}</ol>`;
}

/** Every step, as long as it took. @param {{id: string, steps: any[], isCut: boolean, open: string, setOpen: (key: string) => void}} given */
function Line({ id, steps, isCut, open, setOpen }) {
  const times = steps.flatMap((step) => [step.started_at, step.ended_at]).filter(Boolean).map(Date.parse);
  const from = Math.min(...times);
  const whole = Math.max(Math.max(...times) - from, 1);
  const bar = (/** @type {any} */ step) => {
    if (!step.started_at) return {};
    const began = Date.parse(step.started_at) - from;
    const ended = (step.ended_at ? Date.parse(step.ended_at) : Date.now()) - from;
    return { marginLeft: `${(100 * began) / whole}%`, width: `max(2px, ${(100 * Math.max(0, Math.min(ended, whole) - began)) / whole}%)` };
  };
  return html`<h2>Steps <span class="dim">${steps.length}${isCut ? "+" : ""}${times.length ? ` in ${span(whole / 1000)}` : ""}</span></h2>
    <${Table} label="Steps" heads=${["Step", "Kind", "State", "When", "#Took", "#Tokens", "#Cost", "Summary"]}>${steps.map((step) => {
      const key = keyOf(step);
      return html`<tr key=${key} id=${`step-${key}`}><td><button type="button" class="plain" aria-expanded=${open === key} onClick=${() => setOpen(open === key ? "" : key)}>${key}</button></td>
        <td>${step.kind}${step.name ? html` <b>${step.name}</b>` : ""}${step.child_task_id ? html` <${TaskLink} id=${step.child_task_id} />` : ""}${step.is_copied ? html` <span class="tag">copied</span>` : ""}</td>
        <td><${Status} status=${step.status} /></td>
        <td class="gantt"><div class=${`k-${step.kind}`} style=${bar(step)}></div></td>
        <td class="number">${step.duration_ms == null ? "" : span(step.duration_ms / 1000)}</td>
        <td class="number">${tokens(step) || ""}${step.cache_hit ? html` <span class="tag">cache</span>` : ""}</td><td class="number">${step.cost_usd == null ? "" : dollars(step.cost_usd)}</td>
        <td class=${`reason ${step.error ? "bad" : ""}`} title=${step.error ?? step.summary}>${step.error ?? step.summary}</td></tr>
        ${open === key ? html`<tr key=${`${key} open`}><td colspan="8"><div class="inside"><${Step} id=${id} step=${step} /></div></td></tr>` : null}`;
    })}<//>`;
}

/** One step with what was said. @param {{id: string, step: any}} given */
function Step({ id, step }) {
  const { data, error } = useData(`/tasks/${id}/steps/${step.path}?${asked({ attempt: step.attempt })}`);
  if (!data) return html`<${Failed} error=${error} />`;
  const { usage, request } = data;
  const facts = [
    ["model", [data.model ?? request?.model, request?.tags?.length ? `for ${request.tags.join(", ")}` : ""].filter(Boolean).join(" ")],
    ["tokens", tokens(data) ? `${usage.prompt_tokens} read${usage.cached_tokens ? `, of them ${usage.cached_tokens} from the provider's cache` : ""}, ${usage.completion_tokens} written` : ""],
    ["price", data.cost_usd == null ? (data.kind === "model" ? "not known" : "") : dollars(data.cost_usd)],
    ["cache", data.cache_hit ? "answered by the mesh's own" : ""],
    ["calls", data.calls > 1 ? `${data.calls}` : ""],
    ["ended by", data.finish_reason ?? ""],
  ].filter(([, value]) => value);
  return html`<${Failed} error=${error} />
    ${facts.length ? html`<dl class="facts">${facts.map(([name, value]) => html`<dt key=${name}>${name}</dt><dd>${value}</dd>`)}</dl>` : null}
    ${data.prompt ? html`<${Prompt} prompt=${data.prompt} />` : null}
    ${data.error ? html`<p class="bad">${data.error}</p>` : null}
    ${(data.messages ?? []).map((/** @type {any} */ message, /** @type {number} */ at) => html`<details key=${at} open=${at >= data.messages.length - (data.new_messages ?? 1)}><summary>${message.role}</summary><${Shown} value=${message.content || message.tool_calls || ""} /></details>`)}
    ${data.arguments == null ? null : html`<h3>Arguments</h3><${Shown} value=${data.arguments} />`}
    ${data.reply == null ? null : html`<h3>Reply</h3>${data.reply.content ? html`<${Shown} value=${data.reply.content} />` : null}${data.reply.tool_calls?.length ? html`<${Shown} value=${data.reply.tool_calls} />` : null}`}
    ${data.result == null ? null : html`<h3>Result</h3><${Shown} value=${data.result} />`}
    ${(data.notes ?? []).map((/** @type {string} */ note) => html`<p class="dim" key=${note}>${note}</p>`)}
    ${may("submitter") && step.status === "done" ? html`<button type="button" onClick=${() => fork(id, step)}>Fork from here…</button>` : null}`;
}

/** Go on from a step as a new task, once it is known what that keeps. @param {string} id @param {any} step */
async function fork(id, step) {
  let made = /** @type {any} */ (null);
  const wanted = { step: step.path, attempt: step.attempt };
  const isDone = await ask({
    title: `Fork from step ${keyOf(step)}`,
    text: html`<${Kept} id=${id} wanted=${wanted} />`,
    yes: "Fork",
    done: "A new task goes on from there",
    work: async () => {
      made = await call("POST", `/tasks/${id}/fork`, wanted);
    },
  });
  if (isDone) location.hash = to(`task/${made.task_id}`);
}

/** What a fork would keep. @param {{id: string, wanted: any}} given */
function Kept({ id, wanted }) {
  const [plan, setPlan] = useState(/** @type {any} */ (null));
  useEffect(() => {
    call("POST", `/tasks/${id}/fork`, { ...wanted, dry_run: true }).then(setPlan, (error) => setPlan({ error }));
  }, []);
  if (!plan) return html`<p class="dim">Asking…</p>`;
  return plan.error ? html`<${Failed} error=${plan.error} />` : html`<p>${plan.agent_id} goes on behind ${plan.steps_kept} finished steps, which cost nothing again. This task stays as it is.</p>`;
}

/** The version of a prompt, and what differs from the version before. @param {{prompt: string}} given */
function Prompt({ prompt }) {
  const [version, ...place] = prompt.split(" ");
  const [name, digest = ""] = version.split("@");
  const found = useOnce(`prompt ${version}`, async () => (may("contents", "operator") ? before(name, digest) : null));
  return html`<p>Prompt <a href=${to("tasks", { prompt: version })}><code>${version}</code></a> <span class="dim">${place.join(" ")}</span>${found?.link ? html` <a href=${found.link}>v${found.now.version}</a>` : found?.now.subject ? html` <span class="dim">${found.now.subject}</span>` : ""}</p>
    ${found?.old ? html`<details><summary>What differs from ${found.link ? "v" : ""}${found.old.version}</summary><${Difference} before=${found.old.text} now=${found.now.text} /></details>` : null}`;
}

/** Two texts as a diff. @param {{before: string, now: string}} given */
export const Difference = ({ before: old, now }) =>
  html`<pre tabindex="0" class="diff">${differing(old, now).map(([sign, text]) => html`<span class=${sign === "+" ? "add" : sign === "-" ? "del" : ""}>${sign} <${Text} value=${text} />${"\n"}</span>`)}</pre>`;

/** A version of a prompt and the one before it: a registered one, or one of its file in git. @param {string} name @param {string} digest */
async function before(name, digest) {
  const all = await call("GET", "/v1/prompts?limit=500");
  const { items } = all.items.some((/** @type {any} */ one) => one.name === name) ? await call("GET", `/v1/prompts/${encodeURIComponent(name)}/versions?limit=200`) : { items: [] };
  const found = items.find((/** @type {any} */ one) => digest && one.digest.startsWith(digest));
  if (!found) {
    const { now, before: old } = await call("GET", `/prompts/${encodeURIComponent(name)}/versions/${digest}`);
    return now && { now, old };
  }
  const read = async (/** @type {number} */ version) => ({ version, text: (await call("GET", `/v1/prompts/${encodeURIComponent(name)}?version=${version}`)).template });
  return { now: await read(found.version), old: found.version > 1 ? await read(found.version - 1) : null, link: to(`prompts/${name}`, { version: found.version }) };
}
