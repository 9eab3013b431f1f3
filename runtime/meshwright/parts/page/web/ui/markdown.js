// @ts-check
/** Markdown as people read it: elements of a fixed few kinds, never HTML of the text, never a picture. */
import { html, useState } from "./vendor/preact.js";
import { Shown } from "./lib.js";
import { Text } from "./unseen.js";

const MAX_CHARS = 100_000;
const MAX_DEPTH = 8;
const FENCE = /^ {0,3}(```+|~~~+)/;
const HEADING = /^ {0,3}(#{1,6})\s+(.*)$/;
const LINE = /^ {0,3}([-*_])(?: *\1){2,} *$/;
const QUOTE = /^ {0,3}> ?/;
const ITEM = /^( *)([-*+]|\d{1,9}[.)]) +(.*)$/;
const MARKS = /^ {0,3}(#{1,6} |[-*+] |\d{1,9}[.)] |> |```|~~~)|\*\*\S|`[^`\n]+`|\[[^[\]\n]*\]\(/m;
const JSON_TEXT = /^\s*(\{|\[\s*["{[\d])/;
/** In this order: code, an escape, a link or picture, a bare address, and texts that are strong, struck or emphasized. */
const INLINE = new RegExp(
  [
    "(`+)(?<code>[^`\\n]+)\\1(?!`)",
    "\\\\(?<escape>[\\\\`*_{}[\\]()#+.!|<>~-])",
    "!?\\[(?<label>[^[\\]\\n]*)\\]\\((?<target>[^\\s()<>]*(?:\\([^\\s()<>]*\\)[^\\s()<>]*)?)(?: +\"[^\"\\n]*\")?\\)",
    "(?<address>https?://[^\\s<>\"'()[\\]]*[^\\s<>\"'()[\\].,;:!?*_])",
    "\\*\\*(?=\\S)(?<strong>(?:(?!\\*\\*)[^\\n])+)\\*\\*|(?<!\\w)__(?=\\S)(?<strong2>(?:(?!__)[^\\n])+)__(?!\\w)",
    "~~(?=\\S)(?<struck>(?:(?!~~)[^\\n])+)~~",
    "\\*(?=[^\\s*])(?<em>[^*\\n]+)\\*|(?<!\\w)_(?=[^\\s_])(?<em2>[^_\\n]+)_(?!\\w)",
  ].join("|"),
  "g",
);

/** Whether a line stands between the head and the rows of a table. @param {string | undefined} line */
const isRule = (line) => Boolean(line?.includes("|") && line.includes("-") && /^[\s|:-]+$/.test(line));
/** Whether a text is written in Markdown. @param {string} text */
const isMarkdown = (text) => text.length <= MAX_CHARS && !JSON_TEXT.test(text) && (MARKS.test(text) || text.split("\n").some(isRule));

/** A text in one line, without its marks. @param {string} text */
export const inLine = (text) => (text.length <= MAX_CHARS ? text.replace(/^ *(?:#{1,6}|[-*+>]) +/gm, "").replace(/!?\[([^[\]\n]*)\]\([^()\s]*\)/g, "$1").replace(/\*\*|`+/g, "") : text);

/** A link that says where it leads; the address alone where that is none of the web. @param {{label: string, target: string, depth: number}} given */
function Link({ label, target, depth }) {
  const url = URL.canParse(target) ? new URL(target) : null;
  const isWeb = url?.protocol === "https:" || url?.protocol === "http:";
  const words = html`<${Inline} text=${label || target} depth=${depth} />`;
  if (!isWeb) return html`${words} <span class="dim">(<${Text} value=${target} />)</span>`;
  return html`<a href=${url.href} target="_blank" rel="noopener noreferrer">${words}</a>${label === target ? null : html` <span class="dim">(${url.host})</span>`}`;
}

/** @param {{text: string, depth: number}} given */
function Inline({ text, depth }) {
  if (depth > MAX_DEPTH) return html`<${Text} value=${text} />`;
  const parts = [];
  let at = 0;
  for (const match of text.matchAll(INLINE)) {
    const { code, escape, label, target, address, strong, strong2, struck, em, em2 } = /** @type {Record<string, string>} */ (match.groups);
    const inner = (/** @type {string} */ part) => html`<${Inline} text=${part} depth=${depth + 1} />`;
    parts.push(html`<${Text} value=${text.slice(at, match.index)} />`);
    if (code) parts.push(html`<code><${Text} value=${code} /></code>`);
    else if (escape) parts.push(escape);
    else if (target !== undefined) parts.push(html`<${Link} label=${label} target=${target} depth=${depth + 1} />`);
    else if (address) parts.push(URL.canParse(address) ? html`<a href=${new URL(address).href} target="_blank" rel="noopener noreferrer"><${Text} value=${address} /></a>` : address);
    else if (strong ?? strong2) parts.push(html`<strong>${inner(strong ?? strong2)}</strong>`);
    else if (struck) parts.push(html`<del>${inner(struck)}</del>`);
    else parts.push(html`<em>${inner(em ?? em2)}</em>`);
    at = match.index + match[0].length;
  }
  return [...parts, html`<${Text} value=${text.slice(at)} />`];
}

/** The cells of a row. @param {string} line */
const cellsOf = (line) => line.trim().replace(/^\|/, "").replace(/\|$/, "").split(/(?<!\\)\|/).map((cell) => cell.trim());

/** Whether a line ends a paragraph before it. @param {string[]} lines @param {number} at */
const isBlock = (lines, at) => !lines[at].trim() || [FENCE, HEADING, LINE, QUOTE, ITEM].some((shape) => shape.test(lines[at])) || (lines[at].includes("|") && isRule(lines[at + 1]));

/** The first line behind `at` that does not go on. @param {string[]} lines @param {number} at @param {(line: string, at: number) => boolean} goesOn */
function endOf(lines, at, goesOn) {
  while (at < lines.length && goesOn(lines[at], at)) at += 1;
  return at;
}

/** The blocks of lines, whose headings are below those of the page: `place` has the level of the last one. @param {string[]} lines @param {{level: number, least: number}} place @param {number} [depth] */
function blocks(lines, place, depth = 0) {
  /** @type {any[]} */
  const all = [];
  const inline = (/** @type {string} */ text) => html`<${Inline} text=${text} depth=${0} />`;
  for (let at = 0; at < lines.length; ) {
    const line = lines[at];
    const from = at;
    const fence = FENCE.exec(line)?.[1];
    const heading = HEADING.exec(line);
    const item = ITEM.exec(line);
    if (!line.trim()) at += 1;
    else if (fence) {
      at = endOf(lines, at + 1, (one) => !(one.trim().startsWith(fence) && /^[`~]+$/.test(one.trim())));
      all.push(html`<pre tabindex="0"><${Text} value=${lines.slice(from + 1, at).join("\n")} /></pre>`);
      at += 1;
    } else if (heading) {
      place.level = Math.min(Math.max(place.least + heading[1].length - 1, place.least), place.level + 1, 6);
      all.push(html`<${`h${place.level}`}>${inline(heading[2].trimEnd().replace(/ #+$/, ""))}<//>`);
      at += 1;
    } else if (LINE.test(line)) {
      all.push(html`<hr />`);
      at += 1;
    } else if (QUOTE.test(line) && depth < MAX_DEPTH) {
      at = endOf(lines, at, (one) => QUOTE.test(one));
      all.push(html`<blockquote>${blocks(lines.slice(from, at).map((one) => one.replace(QUOTE, "")), place, depth + 1)}</blockquote>`);
    } else if (line.includes("|") && isRule(lines[at + 1])) {
      at = endOf(lines, at + 2, (one) => one.includes("|"));
      const heads = cellsOf(line);
      const rows = lines.slice(from + 2, at).map(cellsOf);
      all.push(html`<div class="wide-table" tabindex="0"><table><thead><tr>${heads.map((cell) => html`<th>${inline(cell)}</th>`)}</tr></thead>
        <tbody>${rows.map((row) => html`<tr>${heads.map((_, column) => html`<td>${inline(row[column] ?? "")}</td>`)}</tr>`)}</tbody></table></div>`);
    } else if (item && depth < MAX_DEPTH) {
      const isNumbered = /\d/.test(item[2]);
      /** @type {string[][]} */
      const items = [];
      for (let next = ITEM.exec(lines[at] ?? ""); next && /\d/.test(next[2]) === isNumbered && next[1].length === item[1].length; next = ITEM.exec(lines[at] ?? "")) {
        const inset = next[1].length + next[2].length + 1;
        const start = at;
        const isInside = (/** @type {string} */ one) => one.search(/[^ ]/) > item[1].length;
        at = endOf(lines, at + 1, (one, place) => isInside(one) || (one.trim() === "" && isInside(lines[place + 1] ?? "")));
        items.push([next[3], ...lines.slice(start + 1, at).map((one) => one.replace(new RegExp(`^ {0,${inset}}`), ""))]);
        if (lines[at]?.trim() === "" && ITEM.test(lines[at + 1] ?? "")) at += 1;
      }
      const list = items.map((one) => html`<li>${blocks(one, place, depth + 1)}</li>`);
      all.push(isNumbered ? html`<ol start=${parseInt(item[2], 10)}>${list}</ol>` : html`<ul>${list}</ul>`);
    } else {
      at = endOf(lines, at + 1, (_, next) => !isBlock(lines, next));
      all.push(html`<p>${inline(lines.slice(from, at).join("\n"))}</p>`);
    }
  }
  return all;
}

/** A text as Markdown where it is some, with a switch to the text as it is; other data as `Shown`. Headings are below the level `under`. @param {{value: any, under?: number}} given */
export function Written({ value, under = 3 }) {
  const [isRaw, setRaw] = useState(false);
  if (typeof value !== "string" || !isMarkdown(value)) return html`<${Shown} value=${value} />`;
  return html`<div class="written"><button type="button" class="plain" aria-pressed=${isRaw} title="The text as it was written" onClick=${() => setRaw(!isRaw)}>Raw</button>
    ${isRaw ? html`<${Shown} value=${value} />` : html`<div class="markdown" tabindex="0">${blocks(value.replace(/\r\n?/g, "\n").replaceAll("\t", "    ").split("\n"), { level: under, least: under + 1 })}</div>`}</div>`;
}
