// @ts-check
/** A task as one file, JSON or HTML, that can be sent to others: secrets are masked, and contents can be left out. */
import { html } from "./vendor/preact.js";
import { ask } from "./dialog.js";
import { asked, call, may } from "./lib.js";

const MOST_STEPS = 5_000;
/** What looks like a secret, as the mesh itself masks it at steps. */
const SECRETS = [
  [/-----BEGIN [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----[^]*?(?:-----END [A-Z0-9 ]*-----|$)/g, "[redacted]"],
  [/\b(?:sk-(?=[\w-]{0,20}\d)[\w-]{16,}|mesh-admin-[\w-]{16,}|gAAAAA[\w-]{60,}=*|[sr]k_(?:live|test)_\w{10,}|(?:AKIA|ASIA)[A-Z0-9]{16}\b|gh[oprsu]_\w{20,}|github_pat_\w{20,}|glpat-[\w-]{20,}|npm_\w{36}|hf_\w{30,}|pypi-[\w-]{40,}|xox[abeoprs]-[\w-]{10,}|AIza[\w-]{35}|eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*)/g, "[redacted]"],
  [/(:\/\/[^\s/:@"']{0,200}:)[^\s/@"'{}$<>[\]]{1,200}(?=@)/g, "$1[redacted]"],
  [/(\b(?:Bearer|Basic)\s{1,3})[\w.~+/-]{16,}=*/g, "$1[redacted]"],
  [/((?:passw(?:or)?d|passphrase|secret|token|api[_-]?key|access[_-]?key|credential)\w{0,40}["']?\s{0,8}[=:]\s{0,8}["']?)[^\s"'(){}[\],;<>$=:`|\\]{6,400}/gi, "$1[redacted]"],
];
const NAMES = /passw(?:or)?d|passphrase|secret|api[_-]?key|access[_-]?key|credential/i;

/** Data without what looks like a secret. @param {any} value @returns {any} */
export function masked(value) {
  if (typeof value === "string") return SECRETS.reduce((text, [pattern, by]) => text.replace(/** @type {RegExp} */ (pattern), /** @type {string} */ (by)), value);
  if (Array.isArray(value)) return value.map(masked);
  if (value === null || typeof value !== "object") return value;
  return Object.fromEntries(Object.entries(value).map(([name, one]) => [name, NAMES.test(name) && typeof one === "string" ? "[redacted]" : masked(one)]));
}

/** A task without what was asked and answered. @param {any} task */
export function facts(task) {
  const { payload, waits, outcome, attempts, ...rest } = task;
  const kind = (/** @type {any} */ error) => error && { type: error.type };
  return {
    ...rest,
    attempts: attempts.map((/** @type {any} */ attempt) => ({ ...attempt, error: kind(attempt.error) })),
    outcome: outcome && { ...outcome, result: null, files: [], error: kind(outcome.error) },
    waits: waits.map((/** @type {any} */ wait) => ({ kind: wait.kind, due_at: wait.due_at, child_task_id: wait.child_task_id })),
  };
}

/** All that there is of a task. @param {string} id @param {boolean} hasContents */
async function read(id, hasContents) {
  const task = await call("GET", `/tasks/${id}`);
  const steps = [];
  for (let cursor = "", more = true; more && steps.length < MOST_STEPS; more = Boolean(cursor)) {
    const page = await call("GET", `/tasks/${id}/steps?${asked({ limit: 500, contents: hasContents, cursor })}`);
    steps.push(...page.items);
    cursor = page.cursor ?? "";
  }
  const tree = await call("GET", `/tasks/${id}/tree`);
  const bare = (/** @type {any} */ { summary, error, ...step }) => step;
  return masked({ task: hasContents ? task : facts(task), steps: hasContents ? steps : steps.map(bare), tree: tree.items });
}

/** @param {any} text */
const safe = (text) => String(text ?? "").replace(/[&<>"']/g, (sign) => `&#${sign.charCodeAt(0)};`);
/** @param {any} value */
const shown = (value) => (value == null || value === "" ? "" : `<pre>${safe(typeof value === "string" ? value : JSON.stringify(value, null, 2))}</pre>`);

/** The file as a page without scripts. @param {{task: any, steps: any[], tree: any[]}} all */
export function pageOf({ task, steps, tree }) {
  const rows = [["id", task.task_id], ["state", task.status], ["agent", task.attempts.at(-1)?.agent_id], ["capability", task.capability], ["requested by", task.requested_by], ["created", task.created_at], ["ended", task.outcome?.completed_at], ["cost in dollars", task.outcome?.cost_usd], ["model", task.outcome?.model], ["prompt", task.outcome?.prompt]].filter(([, value]) => value != null);
  const said = (/** @type {any} */ step) => [...(step.messages ?? []).map((/** @type {any} */ message) => `<h4>${safe(message.role)}</h4>${shown(message.content || message.tool_calls)}`), ...["arguments", "reply", "result"].filter((name) => step[name] != null).map((name) => `<h4>${name}</h4>${shown(step[name])}`)].join("");
  return `<!doctype html><html lang="en"><meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'"><title>Task ${safe(task.task_id)}</title>
<style>:root{color-scheme:light dark}body{font:14px/1.45 system-ui,sans-serif;max-width:1000px;margin:24px auto;padding:0 16px}pre{white-space:pre-wrap;overflow-wrap:anywhere;background:#8882;padding:8px}td,th{text-align:left;padding:2px 12px 2px 0;vertical-align:top}summary{cursor:pointer;padding:3px 0}</style>
<h1>Task ${safe(task.task_id)}</h1><table>${rows.map(([name, value]) => `<tr><th>${name}<td>${safe(value)}`).join("")}</table>
${task.payload ? `<h2>Request</h2>${shown(task.payload.text ?? task.payload)}` : ""}${task.outcome?.error ? `<h2>Error</h2>${shown(`${task.outcome.error.type}: ${task.outcome.error.message ?? ""}`)}` : ""}${task.outcome?.result ? `<h2>Result</h2>${shown(task.outcome.result.text ?? task.outcome.result)}` : ""}
${tree.length > 1 ? `<h2>Delegated</h2><table><tr><th>Task<th>Agent<th>State<th>Own cost<th>With those below</tr>${tree.map((node) => `<tr><td>${"&nbsp;".repeat(3 * node.depth)}${safe(node.task_id)}<td>${safe(node.agent_id)}<td>${safe(node.status)}<td>${safe(node.cost_usd)}<td>${safe(node.tree_cost_usd)}`).join("")}</table>` : ""}
<h2>Steps</h2>${steps.map((step) => `<details><summary>${step.attempt}/${safe(step.path)} ${safe(step.kind)} <b>${safe(step.name)}</b> ${safe(step.status)} ${step.cost_usd == null ? "" : `$${safe(step.cost_usd)}`} ${safe(step.summary)}</summary>${step.prompt ? `<p>prompt ${safe(step.prompt)}</p>` : ""}${step.error ? `<p>${safe(step.error)}</p>` : ""}${said(step)}</details>`).join("\n")}</html>`;
}

/** @param {{id: string}} given */
export function Export({ id }) {
  if (!may("contents", "submitter")) return null;
  const save = () =>
    ask({
      title: "Save the task as a file",
      text: "What looks like a secret is masked. Look at it all the same before you send it to others.",
      done: "It is saved",
      fields: [
        { name: "format", label: "Format", type: "select", options: [["html", "HTML, to read"], ["json", "JSON, for programs"]] },
        { name: "contents", label: "With what was asked, said and answered", type: "check", value: true },
      ],
      work: async ({ format, contents }) => {
        const all = await read(id, contents);
        const text = format === "html" ? pageOf(all) : JSON.stringify(all, null, 2);
        const file = URL.createObjectURL(new Blob([text], { type: format === "html" ? "text/html" : "application/json" }));
        Object.assign(document.createElement("a"), { href: file, download: `task-${id}.${format}` }).click();
        setTimeout(() => URL.revokeObjectURL(file), 10_000); // once the browser has read it
      },
    });
  return html`<button type="button" onClick=${save}>Save as a file…</button>`;
}
