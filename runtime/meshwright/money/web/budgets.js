// @ts-check
/** Budgets with what is spent of them, and allowances: budgets that are set while the mesh runs. */
import { html } from "/ui/vendor/preact.js";
import { ask } from "/ui/dialog.js";
import { Ago, asked, call, dollars, Failed, may, me, slow, Table, to, useData } from "/ui/lib.js";
import { Reached, Trend } from "./trend.js";

const WHEN_EMPTY = [["", "as before; a new one fails"], ["fail", "the call fails"], ["wait", "tasks wait until it renews"], ["ask", "tasks ask a person"], ["cheaper", "calls go to cheaper models"]];
const AMOUNT = "[0-9]*[.]?[0-9]+";

/** All budgets; a filter of the list of tasks where one finds those that spend it. */
export function Budgets() {
  const { data, error } = useData("/budgets", slow);
  if (!data?.items.length) return html`<${Failed} error=${error} />`;
  const able = may("operator") && me.value.all_tenants;
  return html`<h2>Budgets</h2><${Failed} error=${error} /><${Table} label="Budgets" heads=${["Budget", "Spent of its limit", "Last 7 days", "At the limit", "When it is empty", "Renews", ...(able ? [""] : [])]}>
    ${data.items.map((/** @type {any} */ budget) => html`<tr key=${`${budget.budget} ${budget.key}`}><td><b>${budget.budget}</b>${budget.hard ? "" : html` <span class="tag">soft</span>`}<br /><span class="dim"><${Spender} scope=${budget.scope} of=${budget.key} />${budget.window === "total" ? ", for good" : `, each ${budget.window}`}</span></td>
      <td><span class="spent">${dollars(budget.spent_usd)} <span class="dim">of ${dollars(budget.limit_usd)}</span></span><meter min="0" max=${budget.limit_usd} high=${0.8 * budget.limit_usd} value=${budget.spent_usd} aria-label="spent"></meter>${Number(budget.reserved_usd) ? html`<span class="dim">${dollars(budget.reserved_usd)} held</span>` : ""}</td><td><${Trend} budget=${budget} /></td><td><${Reached} budget=${budget} /></td><td>${budget.on_empty}${budget.cheaper ? html` <span class="tag">cheaper models first</span>` : ""}</td><td>${budget.renews_at ? html`<${Ago} time=${budget.renews_at} />` : "never"}</td>
      ${able ? html`<td><button type="button" aria-label=${`Raise ${budget.budget}${budget.key ? ` of ${budget.key}` : ""}`} onClick=${() => raise(budget)}>Raise…</button></td>` : null}</tr>`)}<//>`;
}

/** @param {{scope: string, of: string}} given */
function Spender({ scope, of }) {
  if (scope === "mesh" || !of) return "the mesh";
  if (scope === "agent") return html`<a href=${to("tasks", { agent_id: of })}>${of}</a>`;
  if (scope === "thread") return html`<a href=${to("tasks", { thread_id: of })}>${of}</a>`;
  return scope === "task" ? html`<a href=${to(`task/${of}`)}>${of}</a>` : `${scope} ${of}`;
}

/** @param {any} budget */
const raise = (budget) =>
  ask({
    title: `Raise ${budget.budget}`,
    text: `${dollars(budget.spent_usd)} of ${dollars(budget.limit_usd)} are spent. Tasks that wait for it go on.`,
    yes: "Raise",
    done: "The budget is raised",
    fields: [{ name: "amount_usd", label: "Dollars to add", value: "1", required: true, pattern: AMOUNT, hint: "such as 0.50" }],
    work: (given) => call("POST", "/budgets/raise", { budget: budget.budget, ...(budget.key ? { key: budget.key } : {}), amount_usd: given.amount_usd }),
  });

/** The allowances, for operators. */
export function Allowances() {
  const { data, error } = useData(may("operator") ? "/allowances" : null);
  if (!may("operator")) return null;
  return html`<h2>Allowances</h2><${Failed} error=${error} />
    <p class="bar"><button type="button" onClick=${() => set(null)}>Set an allowance…</button> <span class="dim">A budget that counts from the next call on.</span></p>
    ${data?.items.length ? html`<${Table} label="Allowances" heads=${["Of", "Tenant", "#Amount", "When it is empty", ""]}>
      ${data.items.map((/** @type {any} */ one) => html`<tr key=${`${one.name} ${one.tenant_id}`}><td><${Spender} scope=${one.scope} of=${one.of} /></td><td>${one.tenant_id ?? "all"}</td><td class="number">${dollars(one.limit_usd)}/${one.window}</td><td>${one.on_empty}</td>
        <td class="line"><button type="button" aria-label=${`Change the allowance of ${nameOf(one)}`} onClick=${() => set(one)}>Change…</button> <button type="button" class="no" aria-label=${`Remove the allowances of ${nameOf(one)}`} onClick=${() => remove(one)}>Remove…</button></td></tr>`)}<//>` : null}`;
}

/** How the API names the spender of an allowance. @param {any} one */
const nameOf = (one) => (one.scope === "mesh" ? "mesh" : `${one.scope}:${one.of}`);

/** @param {any} one */
const set = (one) =>
  ask({
    title: one ? `Change the allowance of ${nameOf(one)}` : "Set an allowance",
    done: "The allowance is set",
    fields: [
      ...(one ? [] : [{ name: "whose", label: "Of", required: true, hint: "an agent, or agent:ID, tenant:ID, tag:NAME or mesh" }]),
      { name: "allowance", label: "Amount", value: one ? `${Number(one.limit_usd)}/${one.window}` : "", required: true, hint: "such as 5/day: hour, day, month or total" },
      { name: "on_empty", label: "When it is empty", type: "select", value: one?.on_empty ?? "", options: WHEN_EMPTY },
      ...(!one && me.value.all_tenants ? [{ name: "tenant_id", label: "Tenant", placeholder: "all" }] : []),
    ],
    work: ({ on_empty, tenant_id, ...given }) =>
      call("PUT", "/allowances", { ...(one ? { whose: nameOf(one), ...(one.tenant_id ? { tenant_id: one.tenant_id } : {}) } : {}), ...given, ...(on_empty ? { on_empty } : {}), ...(tenant_id ? { tenant_id } : {}) }),
  });

/** @param {any} one */
const remove = (one) =>
  ask({
    title: `Remove the allowances of ${nameOf(one)}?`,
    text: "Those of every window are removed; budgets of mesh.toml stay.",
    yes: "Remove",
    isDanger: true,
    done: "They are removed",
    work: () => call("DELETE", `/allowances?${asked({ whose: nameOf(one), tenant_id: one.tenant_id })}`),
  });
