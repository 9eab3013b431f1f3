// @ts-check
/** Presses on controls that have just appeared, moved or changed count nowhere: nobody meant them. */
import { notice } from "./lib.js";

const SEEN_MS = 700;
const TREMBLE_PX = 6;
const CONTROLS = "button, input, select";
const NOWHERE = new DOMRect(-1, -1, 0, 0);

/** Controls as painted: meaning, box in the window, place in what scrolls, how far and when it moved last. @type {WeakMap<Element, any>} */
const sights = new WeakMap();
let isDue = false;
/** Where a mouse rests, and when it or the focus moved last: a hand that moves after a change has chosen. */
let rest = { x: 0, y: 0 };
let mouseAt = -Infinity;
let focusAt = -Infinity;

/** The words of a control, with the `data-of` of what it acts on. @param {HTMLElement} control */
const meaningOf = (control) => [control.tagName === "BUTTON" && control.textContent, control.ariaLabel, control.title, /** @type {HTMLElement | null} */ (control.closest("[data-of]"))?.dataset.of].join("\n");

/** Notes controls as they are; what is other has changed at a time. To scroll changes nothing. @param {number} at */
function note(at) {
  const dialog = document.querySelector("dialog:modal");
  for (const control of /** @type {NodeListOf<HTMLElement>} */ (document.querySelectorAll(CONTROLS))) {
    const box = dialog && !dialog.contains(control) ? NOWHERE : control.getBoundingClientRect();
    let { left, top } = box;
    for (let one = control.parentElement; one; one = one.parentElement) {
      left += one.scrollLeft;
      top += one.scrollTop;
    }
    const meaning = meaningOf(control);
    const sight = sights.get(control);
    if (!sight) {
      sights.set(control, { meaning, changedAt: -Infinity, box, left, top, dx: Infinity, dy: Infinity, movedAt: at });
      continue;
    }
    const dx = box.x - sight.box.x;
    const dy = box.y - sight.box.y;
    if (meaning !== sight.meaning) sight.changedAt = Math.max(at, sight.changedAt);
    if ((dx || dy) && Math.hypot(left - sight.left, top - sight.top) > 1) {
      if (at - sight.movedAt > SEEN_MS) sight.dx = sight.dy = 0;
      sight.movedAt = Math.max(at, sight.movedAt);
    }
    Object.assign(sight, { meaning, box, left, top, dx: sight.dx + dx, dy: sight.dy + dy });
  }
}

function look(now = performance.now()) {
  note(isDue ? now : -Infinity);
  isDue = false;
}

function change() {
  if (!isDue) requestAnimationFrame(() => isDue && look());
  isDue = true;
}

/** @param {PointerEvent} event */
function move({ pointerType, clientX: x, clientY: y }) {
  if (pointerType !== "mouse" || Math.hypot(x - rest.x, y - rest.y) <= TREMBLE_PX) return;
  rest = { x, y };
  mouseAt = performance.now();
  if (isDue) look(mouseAt); // what was not painted yet was not seen
}

/** Whether a press is for what was seen. @param {MouseEvent} event @param {any} sight */
function isMeant(event, { changedAt, box, dx, dy, movedAt }) {
  const now = performance.now();
  if (now - changedAt <= SEEN_MS) return false;
  const isKey = event.detail === 0;
  if (isKey && !event.isTrusted) return true; // a shortcut has its own rule
  const chosenAt = isKey ? Math.max(focusAt, mouseAt) : /** @type {PointerEvent} */ (event).pointerType === "touch" ? -Infinity : mouseAt;
  if (now - movedAt > SEEN_MS || chosenAt > movedAt) return true;
  if (isKey) return dx < Infinity;
  const { clientX: x, clientY: y } = event;
  return x + dx >= box.left && x + dx <= box.right && y + dy >= box.top && y + dy <= box.bottom;
}

/** @param {MouseEvent} event */
function click(event) {
  look();
  const control = /** @type {Element | null} */ (event.target)?.closest?.(CONTROLS);
  const sight = control && sights.get(control);
  if (!sight) return;
  if (isMeant(event, sight)) return void (sight.dx = sight.dy = 0); // it was seen where it is
  event.preventDefault();
  event.stopImmediatePropagation();
  notice.value = { text: "This changed just before you pressed it: nothing was done. Look, then press again.", bad: true };
}

addEventListener("pointermove", move, true);
addEventListener("focusin", () => { focusAt = performance.now(); if (isDue) look(focusAt); });
addEventListener("input", change, true);
addEventListener("scroll", () => look(), true);
addEventListener("resize", () => look());
addEventListener("click", click, true);
new MutationObserver(change).observe(document.body, { childList: true, subtree: true, characterData: true, attributes: true, attributeFilter: ["class", "style", "hidden", "open", "title", "aria-label", "data-of"] });
