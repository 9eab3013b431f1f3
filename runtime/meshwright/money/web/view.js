// @ts-check
/** Costs: as a series, by key, beside estimates and with what was delegated; and budgets. */
import { html, useState } from "/ui/vendor/preact.js";
import { Allowances, Budgets } from "./budgets.js";
import { Chart, tasksAt } from "/ui/chart.js";
import { Ago, asked, Asking, call, Count, dollars, Failed, route, slow, Table, TaskLink, to, useData, useOnce } from "/ui/lib.js";
import { Tree } from "/ui/tree.js";
import { Text } from "/ui/unseen.js";

const KEYS = ["agent", "model", "deployment", "prompt", "tag", "task", "tree", "tenant"];
/** How keys are named that are more than one word. @type {Record<string, string>} */
const NAMES = { tree: "task tree" };
/** @type {Record<string, "hour" | "day">} */
const TIMES = { "24h": "hour", "7d": "day", "30d": "day" };
/** How a key is found in the list of tasks, where it can be. */
const FOUND = { agent: "agent_id", model: "model", prompt: "prompt", tag: "tag", tenant: "tenant" };
/** Whether the keys are tasks: each for itself, or with what was delegated from it. @param {string} by */
const isOfTasks = (by) => by === "task" || by === "tree";
/** The filter of the list of tasks that finds a key. @param {string} by @param {string} key @returns {Record<string, string>} */
const found = (by, key) => (FOUND[/** @type {"agent"} */ (by)] && key ? { [FOUND[/** @type {"agent"} */ (by)]]: by === "prompt" ? key.split(" ")[0] : key } : {});

/** The view. */
export default function Money() {
  const by = route.value.query.get("by") ?? "agent";
  const since = route.value.query.get("since") ?? "24h";
  const bucket = TIMES[since] ?? "day";
  const { data, error } = useData(`/costs?${asked({ by: by === "task" ? "task,agent" : by, since })}`, slow);
  const { data: series } = useData(`/costs?${asked({ by: isOfTasks(by) ? "agent" : by, since, bucket })}`, slow);
  const key = isOfTasks(by) ? "agent" : by;
  const link = (/** @type {string} */ name, /** @type {number | undefined} */ time) => (time !== undefined ? tasksAt({}, time, bucket) : name !== "none" && Object.keys(found(key, name)).length ? to("tasks", { ...found(key, name), since }) : "");
  return html`<h1>Money</h1>
    <nav class="bar" aria-label="Period">${Object.keys(TIMES).map((time) => html`<a key=${time} href=${to("money", { by, since: time })} aria-current=${time === since ? "true" : undefined}>last ${time}</a>`)}</nav>
    <nav class="bar" aria-label="Sum by">${KEYS.map((name) => html`<a key=${name} href=${to("money", { by: name, since })} aria-current=${name === by ? "true" : undefined}>by ${NAMES[name] ?? name}</a>`)}</nav>
    <${Failed} error=${error} /><${Asking} of=${{ data, error }} />
    ${series?.since ? html`<${Chart} items=${series.items} bucket=${bucket} since=${series.since} link=${link} />` : null}
    ${data ? html`<${Sums} data=${data} by=${by} since=${since} />` : null}
    <${Budgets} />
    <${Allowances} />`;
}

/** @param {{data: any, by: string, since: string}} given */
function Sums({ data, by, since }) {
  const { data: agents } = useData(by === "agent" ? "/agents" : null, slow);
  const known = new Set((agents?.items ?? []).filter((/** @type {any} */ one) => one.kind !== "system").map((/** @type {any} */ one) => one.agent_id));
  const { data: tasks } = useData(isOfTasks(by) ? `/tasks?${asked({ since, limit: 500 })}` : null, slow);
  const found = new Map((tasks?.items ?? []).map((/** @type {any} */ task) => [task.task_id, task])); // its cost is that with what it delegated, as estimates are
  if (!data.items.length) return html`<p class="empty">No model was called in that time.</p>`;
  const beside = { task: ["#With those below, and estimated"], agent: ["#A task (median, 90 %)"] }[by] ?? [];
  return html`<${Table} label="Costs" heads=${[NAMES[by] ?? by, "#Cost", "#Share", "#Held", "#Calls", "#Failed", "#Read", "#Cached", "#Written", ...beside]}>
    ${data.items.map((/** @type {any} */ item) => html`<${Sum} key=${`${item.key} ${item.key2}`} item=${item} by=${by} since=${since} total=${Number(data.total.cost_usd)} isKnown=${known.has(item.key)} task=${found.get(item.key)} />`)}
    <tr class="total"><td><b>All</b>${data.omitted ? html` <span class="dim">with ${data.omitted} that are not listed</span>` : ""}${data.listed_since ? html` <span class="dim">those listed are of the newest calls, <${Ago} time=${data.listed_since} /> and later</span>` : ""}${data.counted_since ? html` <span class="dim">by whole hours, since <${Ago} time=${data.counted_since} /></span>` : ""}</td><${Figures} item=${data.total} href=${to("tasks", { since })} />${beside.map((head) => html`<td key=${head}></td>`)}</tr><//>`;
}

/** The share of a cost in all of them. @param {{of: number, total: number}} given */
const Share = ({ of, total }) => (of && total ? html`<span class="share" style=${{ "--share": `${(100 * of) / total}%` }}>${((100 * of) / total).toFixed(of / total < 0.1 ? 1 : 0)} %</span>` : "");

/** The numbers of a row, all of the same calls. @param {{item: any, href: string, total?: number}} given */
const Figures = ({ item, href, total = 0 }) => {
  const number = (/** @type {any} */ value) => html`<td class="number"><${Count} value=${value || ""} href=${href} /></td>`;
  return html`<td class="number"><${Count} value=${dollars(item.cost_usd)} href=${href} />${item.unpriced ? html` <span class="dim">${item.unpriced} without a price</span>` : ""}</td><td class="number"><${Share} of=${Number(item.cost_usd)} total=${total} /></td><td class="number">${Number(item.reserved_usd) ? dollars(item.reserved_usd) : ""}</td>${number(item.calls)}${number(item.failed)}${number(item.prompt_tokens)}${number(item.cached_tokens)}${number(item.completion_tokens)}`;
};

/** A row; that of a task or a tree opens what was delegated. @param {{item: any, by: string, since: string, total: number, isKnown: boolean, task: any}} given */
function Sum({ item, by, since, total, isKnown, task }) {
  const [isOpen, open] = useState(false);
  const of = item.key == null ? {} : found(by, item.key);
  const href = isOfTasks(by) ? (item.key ? to(`task/${item.key}`) : "") : Object.keys(of).length ? to("tasks", { ...of, since }) : "";
  const name = item.key ?? "none";
  return html`<tr>${isOfTasks(by) && item.key ? html`<td class="titled"><span><button type="button" class="plain" aria-expanded=${isOpen} aria-label="What it delegated" onClick=${() => open(!isOpen)}>${isOpen ? "▾" : "▸"}</button> ${task?.title ? html`<a class="title" href=${href}><${Text} value=${task.title} /></a> ` : ""}<${TaskLink} id=${item.key} /> <span class="dim">${item.key2 ?? task?.agent_id ?? ""}</span></span></td>` : html`<td>${href ? html`<a href=${href}>${name}</a>` : name}</td>`}
    <${Figures} item=${item} href=${href} total=${total} />
    ${by === "task" ? html`<td class="number"><${Beside} actual=${task?.cost_usd} estimate=${item.estimate_usd} /></td>` : null}
    ${by === "agent" ? html`<td class="number">${isKnown ? html`<${Estimate} agent=${item.key} />` : ""}</td>` : null}</tr>
    ${isOpen ? html`<tr><td colspan="10"><${Tree} id=${item.key} isWhole=${true} /></td></tr>` : null}`;
}

/** What a task has cost with all below it, and how far that is from its estimate. @param {{actual: any, estimate: any}} given */
function Beside({ actual, estimate }) {
  const times = Number(estimate) && actual != null ? Number(actual) / Number(estimate) : 0;
  return html`${actual == null ? "" : dollars(actual)}${estimate == null ? "" : html` <span class="dim">of ${dollars(estimate)}</span>`}${times >= 0.05 ? html` <span class=${times > 2 ? "bad" : "dim"}>×${times.toFixed(times < 10 ? 1 : 0)}</span>` : ""}`;
}

/** What the last tasks of an agent have cost. @param {{agent: string}} given */
function Estimate({ agent }) {
  const data = useOnce(`estimate ${agent}`, () => call("GET", `/costs/estimate?${asked({ agent_id: agent })}`));
  return data?.median_usd == null ? "" : html`${dollars(data.median_usd)}, ${dollars(data.p90_usd)}`;
}
