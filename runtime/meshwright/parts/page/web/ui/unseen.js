// @ts-check
/** Texts of others as they are, in the order in which they run, with all that cannot be seen as an escape. */
import { html } from "./vendor/preact.js";

const EMOJI = "\\xa9\\xae\\u203c\\u2049\\u2122\\u2139\\u2194-\\u21aa\\u231a-\\u23ff\\u24c2\\u25aa-\\u27bf\\u2934-\\u2b55\\u3030\\u303d\\u3297\\u3299\\u{1f000}-\\u{1faff}";
const UNSEEN =
  "[\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f\\xad\\u034f\\u061c\\u115f\\u1160\\u17b4\\u17b5\\u180b-\\u180f\\u200b-\\u200f\\u2028-\\u202e\\u2060-\\u206f\\u3164\\ufe00-\\ufe0d\\ufeff\\uffa0\\ufff0-\\ufffb\\ud800-\\udfff\\u{1bca0}-\\u{1bca3}\\u{1d173}-\\u{1d17a}\\u{e0000}-\\u{e0fff}]" +
  `|(?<![${EMOJI}])[\\ufe0e\\ufe0f]`;
const UNSEEN_ONE = new RegExp(UNSEEN, "gu");
/** What stands for a text that is hidden. */
const MARK = "\\[(?:hidden|secret of the mesh): [\\d,]+ characters?\\]|\\[secret:\\d+\\]";
const PARTS = new RegExp(`(${UNSEEN})|(${MARK})`, "u");
/** Whether a text has a mark of a hidden one. @param {string} text */
export const hasMark = (text) => new RegExp(`${MARK}|\\[redacted\\]|^\\*{10}$`, "u").test(text);

/** @param {string} character */
function escaped(character) {
  const code = /** @type {number} */ (character.codePointAt(0));
  return code <= 0xffff ? `\\u${code.toString(16).padStart(4, "0")}` : `\\U${code.toString(16).padStart(8, "0")}`;
}

/** The same as the mesh's `visible`: for places that take a text alone. @param {string} text */
export const visible = (text) => text.replace(UNSEEN_ONE, escaped);

/** A text with its escapes and marks in colour. @param {{value: any}} given */
export function Text({ value }) {
  return String(value ?? "").split(PARTS).map((part, at) => (part === undefined || at % 3 === 0 ? part : at % 3 === 1 ? html`<span class="escape">${escaped(part)}</span>` : html`<span class="mark">${part}</span>`));
}
