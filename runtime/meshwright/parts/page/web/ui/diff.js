// @ts-check
/** The lines by which two texts differ. */
import { html } from "./vendor/preact.js";
import { Text } from "./unseen.js";

const MOST = 2_000;

/** Two texts as a diff. @param {{before: string, now: string}} given */
export const Difference = ({ before: old, now }) =>
  html`<pre tabindex="0" class="diff">${differing(old, now).map(([sign, text]) => html`<span class=${sign === "+" ? "add" : sign === "-" ? "del" : ""}>${sign} <${Text} value=${text} />${"\n"}</span>`)}</pre>`;

/**
 * Each line with `+`, `-` or a space. Texts over 2,000 lines are shown as all old and all new.
 * @param {string} before @param {string} after @returns {[string, string][]}
 */
function differing(before, after) {
  const [old, now] = [before.split("\n"), after.split("\n")];
  if (old.length > MOST || now.length > MOST) return [...old.map((line) => /** @type {[string, string]} */ (["-", line])), ...now.map((line) => /** @type {[string, string]} */ (["+", line]))];
  const same = Array.from({ length: old.length + 1 }, () => new Uint16Array(now.length + 1));
  for (let i = old.length - 1; i >= 0; i -= 1)
    for (let j = now.length - 1; j >= 0; j -= 1) same[i][j] = old[i] === now[j] ? same[i + 1][j + 1] + 1 : Math.max(same[i + 1][j], same[i][j + 1]);
  /** @type {[string, string][]} */
  const lines = [];
  for (let i = 0, j = 0; i < old.length || j < now.length; ) {
    if (i < old.length && j < now.length && old[i] === now[j]) {
      lines.push([" ", old[i]]);
      i += 1;
      j += 1;
    } else if (j >= now.length || (i < old.length && same[i + 1][j] >= same[i][j + 1])) lines.push(["-", old[i++]]);
    else lines.push(["+", now[j++]]);
  }
  return lines;
}
