// @ts-check
/** One step of a task with all that was said, its prompt, and the fork from it. */
import { html, useEffect, useState } from "./vendor/preact.js";
import { Difference } from "./diff.js";
import { ask } from "./dialog.js";
import { asked, call, dollars, Failed, may, Shown, span, TaskLink, to, useData, useOnce } from "./lib.js";
import { Written } from "./markdown.js";
import { WAITS } from "./tasks.js";
import { Text } from "./unseen.js";

/** The name of a step in its task. @param {any} step */
export const keyOf = (step) => `${step.attempt}/${step.path}`;
/** @param {any} step */
const tokens = (step) => step.usage.prompt_tokens + step.usage.completion_tokens;

/** One step with what was said. @param {{id: string, step: any}} given */
export function Step({ id, step }) {
  const { data, error } = useData(`/tasks/${id}/steps/${step.path}?${asked({ attempt: step.attempt })}`);
  if (!data) return html`<${Failed} error=${error} />${error ? null : html`<p class="dim">Asking…</p>`}`;
  const { usage, request } = data;
  const waits = step.waits.map((/** @type {any} */ { kind, since, ended_at }) => `${ended_at ? "" : "still, "}for ${WAITS[/** @type {"person"} */ (kind)] ?? kind}, ${span(((ended_at ? Date.parse(ended_at) : Date.now()) - Date.parse(since)) / 1000)}`);
  const facts = [
    ["took", data.duration_ms == null ? "" : span(data.duration_ms / 1000)],
    ["waited", waits.join("; ")],
    ["model", [data.model ?? request?.model, request?.tags?.length ? `for ${request.tags.join(", ")}` : ""].filter(Boolean).join(" ")],
    ["tokens", tokens(data) ? `${usage.prompt_tokens} read${usage.cached_tokens ? `, of them ${usage.cached_tokens} from the provider's cache` : ""}, ${usage.completion_tokens} written` : ""],
    ["price", data.cost_usd == null ? (data.kind === "model" ? "not known" : "") : dollars(data.cost_usd)],
    ["cache", data.cache_hit ? "answered by the mesh's own" : ""],
    ["calls", data.calls > 1 ? `${data.calls}, of them ${data.calls - 1} tried again` : ""],
    ["ended by", data.finish_reason ?? ""],
  ].filter(([, value]) => value);
  return html`<${Failed} error=${error} />
    ${facts.length ? html`<dl class="facts">${facts.map(([name, value]) => html`<dt key=${name}>${name}</dt><dd>${value}</dd>`)}${step.child_task_id ? html`<dt>delegated to</dt><dd><${TaskLink} id=${step.child_task_id} /></dd>` : null}</dl>` : null}
    ${data.prompt ? html`<${Prompt} prompt=${data.prompt} />` : null}
    ${data.error ? html`<p class="bad">${data.error}</p>` : null}
    ${(data.messages ?? []).map((/** @type {any} */ message, /** @type {number} */ at) => html`<details key=${at} open=${at >= data.messages.length - (data.new_messages ?? 1)}><summary>${message.role}</summary><${Shown} value=${message.content || message.tool_calls || ""} /></details>`)}
    ${data.arguments == null ? null : html`<h3>Arguments</h3><${Shown} value=${data.arguments} />`}
    ${data.reply == null ? null : html`<h3>Reply</h3>${data.reply.content ? html`<${Written} value=${data.reply.content} />` : null}${data.reply.tool_calls?.length ? html`<${Shown} value=${data.reply.tool_calls} />` : null}`}
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
