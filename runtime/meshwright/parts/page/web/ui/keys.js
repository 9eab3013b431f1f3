// @ts-check
/** Keys of the page: a button or field that says `aria-keyshortcuts="a"` is pressed, or entered, by that key. */
import { html } from "./vendor/preact.js";

const SEEN_MS = 700;
let shownAt = 0;

/** Says that something else is chosen now: its keys are taken once a person can have seen it. */
export function show() {
  shownAt = Date.now();
}

/** The key of a button, for the eye: screen readers have it from `aria-keyshortcuts`. @param {{name: string}} given */
export const Key = ({ name }) => html`<kbd aria-hidden="true">${name}</kbd>`;

/** Whether a key is meant for a field, or for a dialog. @param {any} target */
const isTyped = (target) => target.isContentEditable || ["INPUT", "TEXTAREA", "SELECT"].includes(target.tagName) || document.querySelector("dialog[open]");

/** @param {KeyboardEvent} event */
function press(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat || isTyped(event.target)) return;
  const key = CSS.escape(event.key);
  const target = [.../** @type {NodeListOf<HTMLElement>} */ (document.querySelectorAll(`[aria-keyshortcuts~="${key}"]`))].find((one) => one.offsetParent);
  if (!target) return;
  event.preventDefault();
  if (target.tagName === "INPUT") target.focus();
  else if (target.dataset.always || Date.now() - shownAt > SEEN_MS) target.click();
}
addEventListener("keydown", press);
