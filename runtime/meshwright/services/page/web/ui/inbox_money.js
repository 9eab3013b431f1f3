// @ts-check
/** A question for money: add some, wait for the next window, go on with cheaper models, or stop. */
import { html } from "./vendor/preact.js";
import { ask } from "./dialog.js";
import { act, Ago, call, dollars, may, me, useData } from "./lib.js";

const AMOUNTS = ["0.10", "1", "10"];

/** @param {any} question */
export const isMoney = (question) => question.subject?.account !== undefined;

/**
 * What may be done about it. `stop` answers, `postpone` hides the question until a time.
 * @param {{question: any, stop: (value: any) => Promise<boolean>, postpone: (until: number) => void, notNow: any}} given
 */
export function Money({ question, stop, postpone, notNow }) {
  const { budget, account } = question.subject;
  const ofTask = budget === "task";
  const able = may("operator") && (ofTask || me.value.all_tenants);
  const { data: budgets } = useData(may("viewer") ? "/budgets" : null);
  const { data: allowances } = useData(may("operator") ? "/allowances" : null);
  const named = (budgets?.items ?? []).filter((/** @type {any} */ one) => one.budget === budget);
  const found = named.length === 1 ? named[0] : named.find((/** @type {any} */ one) => String(account).endsWith(one.key));
  const allowance = (allowances?.items ?? []).find((/** @type {any} */ one) => one.name === budget);
  const whose = ofTask ? { task_id: question.task_id } : { budget, ...(found?.key ? { key: found.key } : {}) };
  const raise = (/** @type {string} */ amount) => call("POST", "/budgets/raise", { ...whose, amount_usd: amount });
  const other = () =>
    ask({
      title: "Add money",
      yes: "Add",
      done: "The budget is raised",
      fields: [{ name: "amount", label: "Dollars", required: true, pattern: "[0-9]*[.]?[0-9]+", hint: "such as 2.50" }],
      work: ({ amount }) => raise(amount),
    });
  const end = () =>
    ask({
      title: "Give it no more money?",
      text: question.tasks > 1 ? `${question.tasks} tasks wait for this budget. Their next call of a model fails.` : "Its next call of a model fails.",
      yes: "Stop it",
      isDanger: true,
      fields: [{ name: "reason", label: "Reason" }],
      work: ({ reason }) => stop(reason ? { approve: false, reason } : { approve: false }),
    });
  const cheaper = () => act("It goes on with cheaper models", () => call("PUT", "/allowances", { whose: allowance.scope === "mesh" ? "mesh" : `${allowance.scope}:${allowance.of}`, allowance: `${Number(allowance.limit_usd)}/${allowance.window}`, on_empty: "cheaper", ...(allowance.tenant_id ? { tenant_id: allowance.tenant_id } : {}) }));
  return html`${found ? html`<p class="dim">${dollars(found.spent_usd)} of ${dollars(found.limit_usd)} are spent${found.renews_at ? html`; it renews <${Ago} time=${found.renews_at} />` : ""}.</p>` : null}
    <form class="bar" onSubmit=${(/** @type {Event} */ event) => event.preventDefault()}>
    ${able ? html`${AMOUNTS.map((amount) => html`<button type="button" class="yes" key=${amount} onClick=${() => act(`Raised by $${amount}`, () => raise(amount))}>+ $${amount}</button>`)}<button type="button" onClick=${other}>Another amount…</button>` : html`<span class="dim">An operator raises budgets.</span>`}
    ${found?.renews_at ? html`<button type="button" onClick=${() => postpone(Date.parse(found.renews_at))}>Wait</button>` : null}
    ${able && allowance && allowance.on_empty !== "cheaper" ? html`<button type="button" onClick=${cheaper}>Cheaper models</button>` : null}
    ${may("approver", "submitter") ? html`<button type="button" class="no" onClick=${end}>Stop it…</button>` : null}
    ${notNow}
  </form>`;
}
