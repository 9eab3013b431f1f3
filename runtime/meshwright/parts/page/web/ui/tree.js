// @ts-check
/** A task with all that it delegated, each with its own cost and that of all below it. */
import { html } from "./vendor/preact.js";
import { callsOf, Count, dollars, Failed, may, span, Status, Table, TaskLink, to, useData } from "./lib.js";

/** @param {any} node */
const calls = (node) => callsOf({ task_id: node.task_id });

/** The tree; of a task that delegated nothing only where it `isWhole`. @param {{id: string, isWhole?: boolean}} given */
export function Tree({ id, isWhole = false }) {
  const { data, error } = useData(`/tasks/${id}/tree`);
  if (error && isWhole) return html`<${Failed} error=${error} />`;
  if (!data || (data.items.length < 2 && !isWhole)) return null;
  return html`${isWhole ? null : html`<h2>Delegated <span class="dim">${dollars(data.items[0].tree_cost_usd)} in all</span></h2>`}
    <${Table} label="Delegated tasks" heads=${["Task", "Agent", "State", "#Calls", "#Tokens", "#Own cost", "#With those below", "#Time"]}>
    ${data.items.map((/** @type {any} */ node) => html`<tr key=${node.task_id}><td style=${{ paddingLeft: `${node.depth * 1.5 + 0.5}rem` }}><${TaskLink} id=${node.task_id} /></td><td>${node.agent_id}</td><td><${Status} status=${node.status} />${node.error ? html` <span class="dim">${node.error}</span>` : ""}</td><td class="number"><${Count} value=${node.calls} href=${calls(node)} /></td><td class="number"><${Count} value=${node.prompt_tokens + node.completion_tokens} href=${calls(node)} /></td><td class="number"><${Count} value=${dollars(node.cost_usd)} href=${calls(node)} /></td><td class="number"><${Count} value=${dollars(node.tree_cost_usd)} href=${may("viewer") && data.items.some((/** @type {any} */ one) => one.parent_task_id === node.task_id) ? to("tasks", { parent_task_id: node.task_id }) : calls(node)} /></td><td class="number">${node.duration_ms == null ? "" : span(node.duration_ms / 1000)}</td></tr>`)}<//>
    ${data.omitted ? html`<p class="dim">${data.omitted} more</p>` : null}`;
}
