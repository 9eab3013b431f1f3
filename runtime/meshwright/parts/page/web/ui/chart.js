// @ts-check
/** Costs over time as stacked columns: plain elements, so that each is a link, has a text and follows the theme. */
import { html } from "./vendor/preact.js";
import { dollars, to } from "./lib.js";

const HOUR = 3_600_000;
const STEPS = { hour: HOUR, day: 24 * HOUR };
const MOST = 6; // keys with a colour of their own

/** The times at which the columns begin. @param {"hour" | "day"} bucket @param {Date} since @param {number} now */
function timesOf(bucket, since, now) {
  const step = STEPS[bucket];
  const first = Math.floor(since.getTime() / step) * step;
  return Array.from({ length: Math.floor((now - first) / step) + 1 }, (_, at) => first + at * step);
}

/** An amount above all columns that reads well: 1, 2 or 5 and zeros. @param {number} most */
export function roundUp(most) {
  const power = 10 ** Math.floor(Math.log10(most));
  return [1, 2, 5, 10].map((factor) => factor * power).find((amount) => amount >= most * 0.999999) ?? most;
}

/**
 * The columns, with the dearest keys in colours. `link` gives the address of a key's rows.
 * @param {{items: any[], bucket: "hour" | "day", since: string, link: (key: string, time?: number) => string}} given
 */
export function Chart({ items, bucket, since, link }) {
  /** @type {Map<string, number>} */
  const sums = new Map();
  /** @type {Map<number, Map<string, number>>} */
  const columns = new Map();
  for (const { key, time, cost_usd: cost } of items) {
    const name = key ?? "none";
    const at = Date.parse(time);
    sums.set(name, (sums.get(name) ?? 0) + Number(cost ?? 0));
    if (!columns.has(at)) columns.set(at, new Map());
    const column = /** @type {Map<string, number>} */ (columns.get(at));
    column.set(name, (column.get(name) ?? 0) + Number(cost ?? 0));
  }
  const names = [...sums.keys()].filter((name) => sums.get(name)).sort((one, other) => (sums.get(other) ?? 0) - (sums.get(one) ?? 0));
  if (!names.length) return null;
  const [own, others] = [names.slice(0, MOST), names.slice(MOST)];
  const whole = (/** @type {Map<string, number> | undefined} */ column) => [...(column?.values() ?? [])].reduce((sum, cost) => sum + cost, 0);
  const top = roundUp(Math.max(...[...columns.values()].map(whole)));
  const parts = (/** @type {Map<string, number>} */ column) => [...own.map((name) => /** @type {[string, number]} */ ([name, column.get(name) ?? 0])), /** @type {[string, number]} */ (["others", others.reduce((sum, name) => sum + (column.get(name) ?? 0), 0)])].filter(([, cost]) => cost);
  const colour = (/** @type {string} */ name) => `c${own.indexOf(name) + 1}`;
  const when = (/** @type {number} */ time) => new Date(time).toLocaleString([], bucket === "hour" ? { weekday: "short", hour: "2-digit", minute: "2-digit" } : { day: "numeric", month: "short" });
  const times = timesOf(bucket, new Date(since), Date.now());
  return html`<figure class="chart"><div class="scale" aria-hidden="true"><span>${dollars(top)}</span><span>${dollars(top / 2)}</span><span>$0</span></div>
    <ol class="columns" aria-label=${`Cost by ${bucket}`}>${times.map((time) => {
      const column = columns.get(time);
      const text = `${when(time)}: ${dollars(whole(column))}${column ? ` (${parts(column).map(([name, cost]) => `${name} ${dollars(cost)}`).join(", ")})` : ""}`;
      if (!column || !whole(column)) return html`<li key=${time} title=${text}></li>`;
      return html`<li key=${time}><a href=${link("", time)} title=${text} aria-label=${text} style=${{ height: `${Math.max(2, (100 * whole(column)) / top)}%` }}>${parts(column).map(([name, cost]) => html`<i key=${name} class=${colour(name)} style=${{ height: `${(100 * cost) / whole(column)}%` }}></i>`)}</a></li>`;
    })}</ol>
    <div class="times" aria-hidden="true">${[times[0], times[Math.floor(times.length / 2)], times.at(-1)].map((time) => html`<span key=${time}>${when(/** @type {number} */ (time))}</span>`)}</div>
    <figcaption class="line">${own.map((name) => html`<span key=${name}><i class=${`swatch ${colour(name)}`}></i> ${link(name) ? html`<a href=${link(name)}>${name}</a>` : name} ${dollars(sums.get(name))}</span>`)}${others.length ? html`<span><i class="swatch c0"></i> ${others.length} others</span>` : null}</figcaption></figure>`;
}

/** The address of the tasks in the time of a column. @param {Record<string, string>} wanted @param {number} time @param {"hour" | "day"} bucket */
export const tasksAt = (wanted, time, bucket) => to("tasks", { ...wanted, since: new Date(time).toISOString(), until: new Date(time + STEPS[bucket]).toISOString() });
