// @ts-check
/** How a budget goes to its limit: what the last days cost, or what was spent of it by then, under a line at the limit. */
import { html } from "/ui/vendor/preact.js";
import { Ago, dollars } from "/ui/lib.js";

const [WIDTH, HEIGHT, TOP] = [112, 36, 4];
const DAY_MS = 86_400_000;

/** What was spent of a budget without a daily window at the end of each day: what is spent now less what came later. @param {number[]} days @param {number} spent */
const sumsOf = (days, spent) => days.map((_, at) => Math.max(0, spent - days.slice(at + 1).reduce((sum, cost) => sum + cost, 0)));

/** The chart of a budget; nothing for one whose rate is not known. @param {{budget: any}} given */
export function Trend({ budget }) {
  const days = budget.last_days_usd.map(Number);
  if (!days.length) return "";
  const limit = Number(budget.limit_usd);
  const isDaily = budget.window === "day";
  const isSum = budget.window === "month" || budget.window === "total";
  const values = isSum ? sumsOf(days, Number(budget.spent_usd)) : days;
  const most = Math.max(...values, isSum || isDaily ? limit : 0) || 1;
  const y = (/** @type {number} */ value) => HEIGHT - (value / most) * (HEIGHT - TOP);
  const step = WIDTH / (isSum ? 2 * days.length : days.length);
  const text = `${isSum ? "Spent by the end of each day" : "Spent on each day"}, today last: ${values.map(dollars).join(", ")}${isSum || isDaily ? `; the limit is ${dollars(limit)}` : ""}`;
  return html`<svg class="trend" viewBox=${`0 0 ${WIDTH} ${HEIGHT}`} width=${WIDTH} height=${HEIGHT} role="img" aria-label=${text}><title>${text}</title>
    ${isSum ? html`<${Line} values=${values} y=${y} step=${step} budget=${budget} />` : values.map((/** @type {number} */ value, /** @type {number} */ at) => html`<rect key=${at} class=${isDaily && value >= limit ? "over" : undefined} x=${at * step + 2} width=${step - 4} y=${value ? Math.min(y(value), HEIGHT - 2) : HEIGHT - 1} height=${HEIGHT} />`)}
    ${isSum || isDaily ? html`<path class="limit" d=${`M0 ${y(limit)}H${WIDTH}`} />` : null}</svg>`;
}

/** The line of what was spent, and as dashes where it goes at the rate of the last days. @param {{values: number[], y: (value: number) => number, step: number, budget: any}} given */
function Line({ values, y, step, budget }) {
  const now = step * values.length;
  const end = budget.renews_at ? (Date.parse(budget.renews_at) - Date.now()) / DAY_MS : values.length;
  const ahead = Math.max(0, Math.min(values.length, end, Number(budget.per_day_usd) ? (Number(budget.limit_usd) - Number(budget.spent_usd)) / Number(budget.per_day_usd) : values.length));
  const last = values.at(-1) ?? 0;
  return html`<path class="area" d=${`M${step} ${HEIGHT}${values.map((value, at) => `L${(at + 1) * step} ${y(value)}`).join("")}V${HEIGHT}Z`} /><path class="so-far" d=${`M${values.map((value, at) => `${(at + 1) * step} ${y(value)}`).join("L")}`} />
    <path class="ahead" d=${`M${now} ${y(last)}L${now + ahead * step} ${y(last + ahead * Number(budget.per_day_usd))}`} />`;
}

/** When a budget reaches its limit at the rate of the last days. @param {{budget: any}} given */
export function Reached({ budget }) {
  if (budget.per_day_usd == null) return "";
  if (Number(budget.spent_usd) >= Number(budget.limit_usd)) return html`<b class="bad">reached</b>`;
  const rate = html`<span class="dim">at ${dollars(budget.per_day_usd)} a day</span>`;
  if (budget.reached_at) return html`<span class="wait"><${Ago} time=${budget.reached_at} /></span><br /><span class="dim">${new Date(budget.reached_at).toLocaleDateString([], { day: "numeric", month: "short", ...(budget.window === "day" || budget.window === "hour" ? { hour: "2-digit", minute: "2-digit" } : {}) })}, </span>${rate}`;
  return html`${budget.renews_at ? "not in this period" : "not in sight"}<br />${rate}`;
}
