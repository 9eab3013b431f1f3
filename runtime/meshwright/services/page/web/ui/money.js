// @ts-check
/** Costs as a series and by key, and budgets. */
import { html } from "./vendor/preact.js";
import { act, Ago, asked, call, dollars, Failed, may, route, to, useData } from "./lib.js";

const KEYS = ["agent", "model", "prompt", "tag", "task", "tenant"];
const TIMES = { "24h": "hour", "7d": "day", "30d": "day" };
/** How a key is found in the list of tasks, where it can be. */
const FOUND = { agent: "agent_id", model: "model", prompt: "prompt" };

/** The view. */
export function Money() {
  const by = route.value.query.get("by") ?? "agent";
  const since = route.value.query.get("since") ?? "24h";
  const { data, error } = useData(`/costs?${asked({ by, since })}`);
  const { data: series } = useData(`/costs?${asked({ by: "agent", since, bucket: TIMES[/** @type {"24h"} */ (since)] ?? "day" })}`);
  const { data: budgets } = useData("/budgets");
  return html`<h1>Money</h1>
    <nav class="bar" aria-label="Period">${Object.keys(TIMES).map((time) => html`<a key=${time} href=${to("money", { by, since: time })} aria-current=${time === since ? "true" : undefined}>last ${time}</a>`)}</nav>
    <nav class="bar" aria-label="Sum by">${KEYS.map((key) => html`<a key=${key} href=${to("money", { by: key, since })} aria-current=${key === by ? "true" : undefined}>by ${key}</a>`)}</nav>
    <${Failed} error=${error} />
    ${series ? html`<${Bars} items=${series.items} />` : null}
    ${data ? html`<${Sums} data=${data} by=${by} since=${since} />` : null}
    ${budgets?.items.length ? html`<${Budgets} items=${budgets.items} />` : null}`;
}

/** A bar for each time. @param {{items: any[]}} given */
function Bars({ items }) {
  /** @type {Map<string, number>} */
  const sums = new Map();
  for (const item of items) sums.set(item.time, (sums.get(item.time) ?? 0) + Number(item.cost_usd ?? 0));
  const times = [...sums.keys()].sort();
  const most = Math.max(...sums.values(), 0);
  if (!most) return null;
  return html`<ol class="bars" aria-label="Cost over time">${times.map((time) => {
    const text = `${new Date(time).toLocaleString()}: ${dollars(sums.get(time))}`;
    return html`<li key=${time} title=${text} style=${{ height: `${Math.max(2, (100 * (sums.get(time) ?? 0)) / most)}%` }}><span class="unseen">${text}</span></li>`;
  })}</ol>`;
}

/** @param {{data: any, by: string, since: string}} given */
function Sums({ data, by, since }) {
  const field = FOUND[/** @type {"agent"} */ (by)];
  const name = (/** @type {any} */ item) => {
    if (item.key == null) return "none";
    if (by === "task") return html`<a href=${to(`task/${item.key}`)}>${item.key}</a>`;
    return field ? html`<a href=${to("tasks", { [field]: item.key.split(" ")[0], since })}>${item.key}</a>` : item.key;
  };
  const row = (/** @type {any} */ item, /** @type {any} */ title) => html`<tr key=${item.key}><td>${title}</td><td class="number">${item.calls}</td><td class="number">${item.failed || ""}</td><td class="number">${item.prompt_tokens.toLocaleString()}</td><td class="number">${item.cached_tokens ? item.cached_tokens.toLocaleString() : ""}</td><td class="number">${item.completion_tokens.toLocaleString()}</td><td class="number">${dollars(item.cost_usd)}${item.unpriced ? html` <span class="dim">${item.unpriced} without a price</span>` : ""}</td></tr>`;
  if (!data.items.length) return html`<p class="empty">No model was called in that time.</p>`;
  return html`<div class="wide-table" tabindex="0" role="region" aria-label="Costs"><table><thead><tr><th>${by}</th><th class="number">Calls</th><th class="number">Failed</th><th class="number">Read</th><th class="number">of it cached</th><th class="number">Written</th><th class="number">Cost</th></tr></thead>
    <tbody>${data.items.map((/** @type {any} */ item) => row(item, name(item)))}</tbody><tfoot>${row({ ...data.total, key: "total" }, html`<b>All</b>`)}</tfoot></table></div>`;
}

/** @param {{items: any[]}} given */
function Budgets({ items }) {
  const raise = (/** @type {any} */ budget) => act("Raised by $1", () => call("POST", "/budgets/raise", { budget: budget.budget, ...(budget.key ? { key: budget.key } : {}), amount_usd: "1" }));
  return html`<h2>Budgets</h2><div class="wide-table" tabindex="0" role="region" aria-label="Budgets"><table><thead><tr><th>Budget</th><th>Whose</th><th>Window</th><th class="number">Spent</th><th class="number">Held</th><th class="number">Limit</th><th>Renews</th><th><span class="unseen">Actions</span></th></tr></thead>
    <tbody>${items.map((budget) => html`<tr key=${`${budget.budget} ${budget.key}`}><td>${budget.budget}</td><td>${budget.key ?? "the mesh"}</td><td>${budget.window}</td>
      <td class="number"><meter min="0" max=${budget.limit_usd} value=${budget.spent_usd} aria-label="spent"></meter> ${dollars(budget.spent_usd)}</td><td class="number">${dollars(budget.reserved_usd)}</td><td class="number">${dollars(budget.limit_usd)}</td><td><${Ago} time=${budget.renews_at} /></td>
      <td>${may("operator") ? html`<button type="button" onClick=${() => raise(budget)}>+ $1</button>` : null}</td></tr>`)}</tbody></table></div>`;
}
