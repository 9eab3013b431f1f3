// @ts-check
/** Keys of the page: a button or field that says `aria-keyshortcuts="a"` is pressed, or entered, by that key. */
import { html, useEffect, useState } from "./vendor/preact.js";

const SEEN_MS = 700;
let pressedAt = 0;

/** Whether a person can have seen what has this name: it is shown since a moment, which the first paint begins. @param {string} name */
export function useSeen(name) {
  const [seen, set] = useState("");
  useEffect(() => {
    const timer = setTimeout(() => set(name), SEEN_MS);
    return () => clearTimeout(timer);
  }, [name]);
  return seen === name;
}

/** The key of a button, for the eye: screen readers have it from `aria-keyshortcuts`. @param {{name: string}} given */
export const Key = ({ name }) => html`<kbd aria-hidden="true">${name}</kbd>`;

/** @param {any} target */
const isField = (target) => ["INPUT", "TEXTAREA", "SELECT"].includes(target?.tagName);
/** Whether a key is meant for a field, or for a dialog; the field of one that was just closed may still have the focus. @param {any} target */
export const isTyped = (target) => document.querySelector("dialog[open]") || (isField(target) && target.checkVisibility());

/** The field that a person types into. Where it goes, what is still typed is no key. @type {any} */
let field = null;
/** Has keys count again: what is typed has been sent. */
export const endTyping = () => {
  field = null;
};
addEventListener("focusin", ({ target }) => {
  field = isField(target) ? target : null;
});
addEventListener("pointerdown", endTyping);
const isLost = () => field && (!field.isConnected || field.disabled || !field.checkVisibility());

/** @param {KeyboardEvent} event */
function press(event) {
  if (["Escape", "Tab"].includes(event.key)) endTyping();
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat || isTyped(event.target) || isLost()) return;
  const key = CSS.escape(event.key);
  const target = [.../** @type {NodeListOf<HTMLElement>} */ (document.querySelectorAll(`[aria-keyshortcuts~="${key}"]:not(:disabled)`))].find((one) => one.offsetParent);
  if (!target) return;
  event.preventDefault();
  if (target.tagName === "INPUT") target.focus();
  else if (target.dataset.always || Date.now() - pressedAt > SEEN_MS) {
    pressedAt = Date.now(); // what is shown may be about to change
    target.click();
  }
}
addEventListener("keydown", press);
