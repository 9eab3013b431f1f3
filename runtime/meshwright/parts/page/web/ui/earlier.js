// @ts-check
/** Earlier decisions on calls of the same tool, and how this call differs from the last one that was approved. */
import { html, useState } from "./vendor/preact.js";
import { Difference } from "./diff.js";
import { Ago, asked, Failed, TaskLink, useData } from "./lib.js";
import { Text } from "./unseen.js";

const SCANNED = 200;
const SHOWN = 5;

/** @param {string} kind @param {boolean} isOpen */
const useEvents = (kind, isOpen) => useData(isOpen ? `/events?${asked({ event_type: `approval.${kind}`, order: "desc", limit: SCANNED })}` : null);

/** Arguments as lines, whether the event has them as text or as data. @param {any} value */
const lines = (value) => {
  try {
    return JSON.stringify(typeof value === "string" ? JSON.parse(value) : value, null, 2);
  } catch {
    return String(value);
  }
};

/** What was decided before, where it is asked for. @param {{subject: any}} given */
export function Earlier({ subject }) {
  const [isOpen, open] = useState(false);
  const [given, denied, requested] = [useEvents("given", isOpen), useEvents("denied", isOpen), useEvents("requested", isOpen)];
  const { error } = given.error ? given : denied.error ? denied : requested;
  const isThere = given.data && denied.data && requested.data;
  const decided = isThere ? [...given.data.items, ...denied.data.items].filter((event) => event.payload.tool === subject.tool).sort((one, other) => other.seq - one.seq) : [];
  const argumentsOf = (/** @type {any} */ event) => event.payload.arguments ?? requested.data.items.find((/** @type {any} */ one) => one.task_id === event.task_id && one.payload.key === event.payload.key)?.payload.arguments;
  const last = decided.find((event) => event.event_type === "approval.given" && argumentsOf(event) !== undefined);
  return html`<details onToggle=${(/** @type {any} */ event) => open(event.target.open)}><summary>Earlier decisions on ${subject.tool}</summary>
    <${Failed} error=${error} />
    ${isThere && !decided.length ? html`<p class="dim">None among the last ${SCANNED} decisions.</p>` : null}
    ${decided.length ? html`<ul>${decided.slice(0, SHOWN).map((event) => html`<li key=${event.seq}><span class=${event.event_type === "approval.given" ? "s-succeeded" : "bad"}>${event.event_type === "approval.given" ? "approved" : "denied"}</span> by ${event.payload.decided_by ?? "?"} <span class="dim"><${Ago} time=${event.time} /></span> <${TaskLink} id=${event.task_id} />${event.payload.reason ? html`: <${Text} value=${event.payload.reason} />` : ""}</li>`)}</ul>` : null}
    ${last ? html`<h3>What differs from the last approved call</h3><${Difference} before=${lines(argumentsOf(last))} now=${lines(subject.arguments)} />` : null}</details>`;
}
