// @ts-check
/** The claim of a question: who is looking at it, so that two people do not answer it unknowingly. */
import { html } from "./vendor/preact.js";
import { Key } from "./keys.js";
import { act, Ago, call, may, me } from "./lib.js";

/** Whether a question is claimed by another person. @param {any} question */
export const isTaken = (question) => Boolean(question.claimed_by) && question.claimed_by !== me.value?.name;

/** Who is looking at a question, in a few words; none if nobody. @param {any} question */
export const lookingAt = (question) => (question.claimed_by ? (isTaken(question) ? `${question.claimed_by} is looking` : "you are looking") : "");

/** @param {any} question */
const mayClaim = (question) => !question.source && may("approver", "submitter");
/** @param {any} question @param {string} verb @param {string} done */
const change = (question, verb, done) => act(done, () => call("POST", `/inbox/${question.id}/${verb}`, {}));
/** @param {any} question */
const claim = (question) => change(question, "claim", "Others see that you are looking");

/** Claims a question that nobody looks at. To open one claims nothing: people leaf through the inbox. @param {{question: any}} given */
export const Take = ({ question }) =>
  question.claimed_by || !mayClaim(question) ? null : html`<button type="button" aria-keyshortcuts="c" title="Others see that you are looking, and their answers are refused meanwhile" onClick=${() => claim(question)}>I take it<${Key} name="c" /></button>`;

/**
 * Says who is looking at a question. `despite` is the owner whose claim this person disregards; `disregard` sets it.
 * @param {{question: any, despite: string, disregard: (owner: string) => void}} given
 */
export function Claim({ question, despite, disregard }) {
  const { claimed_by: owner, claimed_until: until } = question;
  if (!owner) return null;
  if (!isTaken(question))
    return html`<p class="bar claim"><span><b>You are looking</b>; that ends <${Ago} time=${until} />.</span>
      <button type="button" aria-keyshortcuts="c" title="Your claim begins again" onClick=${() => claim(question)}>Renew<${Key} name="c" /></button>
      <button type="button" title="Others answer it as before" onClick=${() => change(question, "release", "It is free for others")}>Let it go</button></p>`;
  return html`<p class="bar claim"><span><b>${owner} is looking</b>; that ends <${Ago} time=${until} />.</span>
    ${despite === owner ? html`<span class="dim">You answer all the same.</span>` : mayClaim(question) ? html`<button type="button" title="Turns the buttons on; nothing is sent yet" onClick=${() => disregard(owner)}>Answer although ${owner} is looking</button>` : null}</p>`;
}
