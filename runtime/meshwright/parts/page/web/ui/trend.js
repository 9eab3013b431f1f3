// @ts-check
/** Figures of the last hours: small columns for a row of a table, and large ones with a table beside them. */
import { html, signal } from "./vendor/preact.js";
import { useData } from "./lib.js";

/** @typedef {{time: string, good: number, poor: number, href?: string}} Column */

const HOUR_MS = 3_600_000;
const REFRESH_MS = 30_000;
const [BAR, GAP, HEIGHT] = [4, 1, 24];

/** Counts up when to ask for trends again: they are dear to read. */
export const refreshed = signal(0);
setInterval(() => document.hidden || (refreshed.value += 1), REFRESH_MS);

/** The figures of the last hours. */
export const useTrends = () => useData("/figures/trends", refreshed);

/** The bounds of the hour that begins at a time, for a filter of tasks. @param {string} time */
export const hourOf = (time) => ({ since: new Date(time).toISOString(), until: new Date(Date.parse(time) + HOUR_MS - 1).toISOString().replace("Z", "999Z") });

/**
 * A column for each hour of some trends, also where nothing happened. @template T
 * @param {{since: string, at: string}} trends @param {(T & {time: string})[]} hours @param {(hour: T & {time: string}) => Omit<Column, "time">} of
 * @returns {Column[]}
 */
export function columnsOf({ since, at }, hours, of) {
  const known = new Map(hours.map((hour) => [Date.parse(hour.time), hour]));
  const first = Date.parse(since);
  return Array.from({ length: Math.floor((Date.parse(at) - first) / HOUR_MS) + 1 }, (_, number) => {
    const hour = known.get(first + number * HOUR_MS);
    const time = new Date(first + number * HOUR_MS).toISOString();
    return hour ? { time, ...of(hour) } : { time, good: 0, poor: 0 };
  });
}

/** @param {string} time */
const clock = (time) => new Date(time).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
const sum = (/** @type {Column[]} */ columns, /** @type {"good" | "poor"} */ name) => columns.reduce((all, column) => all + column[name], 0);
/** @typedef {[good: string, poor: string]} Words */

/** The text of columns. @param {Column[]} columns @param {Words} words */
function summaryOf(columns, [good, poor]) {
  const worst = columns.reduce((one, other) => (other.poor > one.poor ? other : one), columns[0]);
  const text = `${columns.length} hours: ${sum(columns, "good").toLocaleString()} ${good}, ${sum(columns, "poor").toLocaleString()} ${poor}`;
  return worst.poor ? `${text}, most at ${clock(worst.time)} (${worst.poor})` : text;
}

const highest = (/** @type {Column[]} */ columns) => Math.max(1, ...columns.map(({ good, poor }) => good + poor));

/** Columns in a row of a table: a picture whose text says the sums. @param {{columns: Column[], words: Words}} given */
export function Spark({ columns, words }) {
  const top = highest(columns);
  const bar = (/** @type {number} */ at, /** @type {number} */ from, /** @type {number} */ count, /** @type {string} */ kind) => {
    const height = Math.max(1.5, (HEIGHT * count) / top);
    return count ? html`<rect x=${at * (BAR + GAP)} y=${HEIGHT - (HEIGHT * from) / top - height} width=${BAR} height=${height} class=${kind} />` : null;
  };
  const width = columns.length * (BAR + GAP);
  return html`<svg class="spark" role="img" aria-label=${summaryOf(columns, words)} viewBox=${`0 0 ${width} ${HEIGHT}`} width=${width} height=${HEIGHT}><title>${summaryOf(columns, words)}</title>${columns.map(({ time, good, poor }, at) => html`<g key=${time}>${bar(at, 0, good, "good")}${bar(at, good, poor, "poor")}</g>`)}</svg>`;
}

/** Columns with a scale, each a link where it has an address. @param {{label: string, columns: Column[], words: Words}} given */
export function Hours({ label, columns, words }) {
  const top = highest(columns);
  return html`<figure class="chart"><div class="scale" aria-hidden="true"><span>${top.toLocaleString()}</span><span>0</span></div>
    <ol class="columns" aria-label=${label}>${columns.map(({ time, good, poor, href }) => {
      const text = `${clock(time)}: ${good} ${words[0]}, ${poor} ${words[1]}`;
      if (!good && !poor) return html`<li key=${time} title=${text}></li>`;
      const parts = html`${good ? html`<i class="good" style=${{ height: `${(100 * good) / (good + poor)}%` }}></i>` : null}${poor ? html`<i class="poor" style=${{ height: `${(100 * poor) / (good + poor)}%` }}></i>` : null}`;
      const style = { height: `${Math.max(3, (100 * (good + poor)) / top)}%` };
      return html`<li key=${time}>${href ? html`<a href=${href} title=${text} aria-label=${text} style=${style}>${parts}</a>` : html`<span role="img" title=${text} aria-label=${text} style=${style}>${parts}</span>`}</li>`;
    })}</ol>
    <div class="times" aria-hidden="true">${[columns[0], columns[Math.floor(columns.length / 2)], columns[columns.length - 1]].map(({ time }) => html`<span key=${time}>${clock(time)}</span>`)}</div>
    <figcaption class="line"><span><i class="swatch good"></i> ${sum(columns, "good").toLocaleString()} ${words[0]}</span><span><i class="swatch poor"></i> ${sum(columns, "poor").toLocaleString()} ${words[1]}</span></figcaption></figure>`;
}
