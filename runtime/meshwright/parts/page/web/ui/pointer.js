// @ts-check
/** Clicks on buttons that the page moved under a pointer at rest count nowhere: nobody meant them. */
import { notice } from "./lib.js";

const SEEN_MS = 700;
/** A hand at rest trembles by less. */
const TREMBLE_PX = 6;
/** @type {{x: number, y: number} | null} */
let point = null;
/** @type {Element | null} */
let under = null;
let changedAt = -Infinity;
let changedPoint = { x: 0, y: 0 };
let isDue = false;

/** Notes the control at the pointer; returns whether it is another than before. */
function look() {
  const control = (point && document.elementFromPoint(point.x, point.y)?.closest("button, input, select")) ?? null;
  const isOther = control !== under;
  under = control;
  return isOther && control !== null;
}

/** A hand was here: what the pointer is on was chosen. @param {PointerEvent} event */
function move(event) {
  if (point && event.clientX === point.x && event.clientY === point.y) return; // the browser says it again after a change
  point = { x: event.clientX, y: event.clientY };
  const isAway = Math.hypot(point.x - changedPoint.x, point.y - changedPoint.y) > TREMBLE_PX;
  if (look() || isAway) changedAt = -Infinity;
}

function change() {
  if (!isDue && point) requestAnimationFrame(compare);
  isDue = Boolean(point);
}

/** Notes a change of the page under the pointer. */
function compare() {
  if (!isDue || !point) return;
  isDue = false;
  if (!look()) return;
  changedAt = performance.now();
  changedPoint = point;
}

/** @param {MouseEvent} event */
function click(event) {
  compare();
  const control = /** @type {Element | null} */ (event.target)?.closest?.("button, input, select");
  if (!control || control !== under || event.detail === 0 || performance.now() - changedAt > SEEN_MS) return;
  event.preventDefault();
  event.stopImmediatePropagation();
  notice.value = { text: "The page changed under your pointer: nothing was done. Look, then click again.", bad: true };
}

addEventListener("pointermove", move, { capture: true, passive: true });
addEventListener("pointerdown", move, { capture: true, passive: true });
addEventListener("scroll", () => void look(), { capture: true, passive: true });
addEventListener("click", click, true);
new MutationObserver(change).observe(document.body, { childList: true, subtree: true, characterData: true, attributes: true, attributeFilter: ["class", "style", "hidden", "open"] });
