// @ts-check
/** One answer for several questions of one kind, each of which was seen. */
import { html, signal } from "./vendor/preact.js";
import { ask } from "./dialog.js";
import { Facts } from "./inbox_item.js";
import { notice, touch } from "./lib.js";
import { isSettled, kindOf, send, sentence } from "./questions.js";
import { Text } from "./unseen.js";

/** The ids of the questions that are chosen. */
export const chosen = signal(/** @type {Set<string>} */ (new Set()));

/** Chooses a question, or no longer. @param {any} question @param {boolean} isOn */
export function choose(question, isOn) {
  const all = new Set(chosen.value);
  isOn ? all.add(question.id) : all.delete(question.id);
  chosen.value = all;
}

/** @param {{items: any[], what: string}} given */
const Choose = ({ items, what }) => html`<button type="button" onClick=${() => { chosen.value = new Set(items.map((/** @type {any} */ item) => item.id)); }}>Choose all ${items.length} ${what}</button>`;

/** A button for each kind of which there are several. @param {{items: any[]}} given */
export const Choices = ({ items }) => {
  const groups = groupsOf(items);
  return groups.length ? html`<p class="bar">${groups.map(([what, some]) => html`<${Choose} key=${what} items=${some} what=${what} />`)}</p>` : null;
};

/** The questions that one answer is for, where there are several: by agent and tool. @param {any[]} items @returns {[string, any[]][]} */
function groupsOf(items) {
  /** @type {Map<string, any[]>} */
  const groups = new Map();
  for (const item of items) groups.set(kindOf(item), [...(groups.get(kindOf(item)) ?? []), item]);
  const wordsOf = (/** @type {any} */ item) => `of ${[item.agent_id ?? item.source, item.subject?.tool].filter(Boolean).join(", ")}`;
  return [...groups.values()].filter((of) => of.length > 1).map((of) => [wordsOf(of[0]), of]);
}

/** What is done with all that are chosen. @param {{picked: any[]}} given */
export function Many({ picked }) {
  const decide = async (/** @type {boolean} */ approve, /** @type {string} */ reason) => {
    let settled = 0;
    const refused = [];
    for (const question of picked) {
      try {
        await send(question, approve || !reason ? { approve } : { approve, reason });
      } catch (/** @type {any} */ error) {
        if (isSettled(error)) settled += 1;
        else refused.push(error.message);
      }
    }
    chosen.value = new Set();
    const done = `${picked.length - settled - refused.length} ${approve ? "approved" : "denied"}`;
    notice.value = { text: [done, settled ? `${settled} settled meanwhile by others` : "", ...refused].filter(Boolean).join(", "), bad: refused.length > 0 };
    touch();
  };
  const confirm = (/** @type {boolean} */ approve) =>
    ask({
      title: `${approve ? "Approve" : "Deny"} ${picked.length} ${picked.length === 1 ? "question" : "questions"}`,
      text: html`<p>${approve ? "Each of these is done once:" : "None of these is done, and each agent gets the reason:"}</p><ol class="plan">${picked.map((question) => html`<li key=${question.id}><p class="question"><${Text} value=${sentence(question)} /></p><${Facts} subject=${question.subject ?? {}} asked=${question.question} /></li>`)}</ol>`,
      fields: [{ name: "reason", label: "Reason" }],
      yes: `${approve ? "Approve" : "Deny"} all ${picked.length}`,
      isDanger: !approve,
      work: (given) => decide(approve, given.reason),
    });
  return html`<p class="bar">
    <b>${picked.length} chosen</b>
    <button type="button" class="yes" onClick=${() => confirm(true)}>Approve all…</button>
    <button type="button" class="no" onClick=${() => confirm(false)}>Deny all…</button>
    <button type="button" onClick=${() => { chosen.value = new Set(); }}>Choose none</button>
  </p>`;
}

