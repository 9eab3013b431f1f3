// @ts-check
/** A question for money: add some, wait for the next window, go on with cheaper models, or stop. */
import { html } from "./vendor/preact.js";
import { isOff, settle } from "./answers.js";
import { ask } from "./dialog.js";
import { act, Ago, call, dollars, may, me, useData } from "./lib.js";

const AMOUNTS = ["0.10", "1", "10"];
const OF_TASK = "budget_usd"; // the budget that a task brings

/** @param {any} question */
export const isMoney = (question) => question.subject?.account !== undefined && question.subject.kind !== "question";

/**
 * What may be done about it. `stop` answers, `postpone` hides the question until a time; without them a task waits,
 * and asks nobody.
 * @param {{question: any, stop?: (value: any) => Promise<boolean>, postpone?: (until: number) => void, notNow?: any}} given
 */
export function Money({ question, stop, postpone, notNow }) {
  const { budget, of = question.task_id } = question.subject;
  const ofTask = budget === OF_TASK;
  const able = may("operator") && (ofTask || me.value.all_tenants);
  const { data: budgets } = useData(may("viewer") ? "/budgets" : null);
  const named = (budgets?.items ?? []).filter((/** @type {any} */ one) => one.budget === budget);
  const found = named.find((/** @type {any} */ one) => one.key === of || one.key.endsWith(`:${of}`));
  const whose = ofTask ? { task_id: of } : { budget, key: of };
  const change = (/** @type {any} */ what) => call("POST", "/budgets/raise", { ...whose, ...what }).then(() => settle(question));
  const raise = (/** @type {string} */ amount) => change({ amount_usd: amount });
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
      fields: [{ name: "reason", label: "Reason", required: true }],
      work: ({ reason }) => /** @type {any} */ (stop)({ approve: false, reason }),
    });
  const cheaper = () => act("It goes on with cheaper models", () => change({ cheaper: true }));
  return html`${found ? html`<p class="dim">${dollars(found.spent_usd)} of ${dollars(found.limit_usd)} are spent${found.renews_at ? html`; it renews <${Ago} time=${found.renews_at} />` : ""}${found.cheaper ? "; cheaper models are tried first" : ""}.</p>` : null}
    <form class="bar" onSubmit=${(/** @type {Event} */ event) => event.preventDefault()}>
    ${able ? html`${AMOUNTS.map((amount) => html`<button type="button" disabled=${isOff(question)} class="yes" key=${amount} title=${`Adds $${amount} to the budget ${budget}; what waits for it goes on`} onClick=${() => act(`Raised by $${amount}`, () => raise(amount))}>+ $${amount}</button>`)}<button type="button" disabled=${isOff(question)} onClick=${other}>Another amount…</button>` : html`<span class="dim">An operator raises budgets.</span>`}
    ${found?.renews_at && postpone ? html`<button type="button" disabled=${isOff(question)} title="Hides it here until the budget renews" onClick=${() => postpone(Date.parse(found.renews_at))}>Wait</button>` : null}
    ${able && question.subject.cheaper && !found?.cheaper ? html`<button type="button" disabled=${isOff(question)} title="Tasks of this budget go on with cheaper models until it renews" onClick=${cheaper}>Cheaper models</button>` : null}
    ${stop && may("approver", "submitter") ? html`<button type="button" disabled=${isOff(question)} class="no" onClick=${end}>Stop it…</button>` : null}
    ${notNow}
  </form>`;
}
