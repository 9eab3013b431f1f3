// @ts-check
/** Keys of the page: a button or field that says `aria-keyshortcuts="a"` is pressed, or entered, by that key. */
import { html, useEffect, useRef } from "./vendor/preact.js";

const SEEN_MS = 700;
let shownAt = 0;

/** Takes the keys of what is chosen once a person can have seen it: none before it is painted. @param {string | undefined} id */
export function useShown(id) {
  const last = useRef(/** @type {any} */ ("none yet"));
  if (last.current !== id) shownAt = Infinity;
  last.current = id;
  useEffect(() => {
    shownAt = Date.now();
  }, [id]);
}

/** The key of a button, for the eye: screen readers have it from `aria-keyshortcuts`. @param {{name: string}} given */
export const Key = ({ name }) => html`<kbd aria-hidden="true">${name}</kbd>`;

/** Whether a key is meant for a field, or for a dialog; the field of one that was just closed may still have the focus. @param {any} target */
export const isTyped = (target) => document.querySelector("dialog[open]") || (["INPUT", "TEXTAREA", "SELECT"].includes(target.tagName) && target.checkVisibility());

/** @param {KeyboardEvent} event */
function press(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat || isTyped(event.target)) return;
  const key = CSS.escape(event.key);
  const target = [.../** @type {NodeListOf<HTMLElement>} */ (document.querySelectorAll(`[aria-keyshortcuts~="${key}"]`))].find((one) => one.offsetParent);
  if (!target) return;
  event.preventDefault();
  if (target.tagName === "INPUT") target.focus();
  else if (target.dataset.always || Date.now() - shownAt > SEEN_MS) {
    shownAt = Date.now(); // what is shown may be about to change
    target.click();
  }
}
addEventListener("keydown", press);
