// @ts-check
/** What happened since this browser last showed the page, for people who return after an hour. */
import { html, signal } from "./vendor/preact.js";
import { Clock } from "./health.js";
import { asked, dollars, isWide, may, slow, to, useData } from "./lib.js";
import { Text } from "./unseen.js";

const AWAY_MS = 3_600_000;
const LOOK_MS = 60_000;
const SHOWN = isWide ? 8 : 3;
const BAD = ["away", "failed", "killed", "lost"];
/** Whether two times are of one minute. @param {string} one @param {string} other */
const isOnce = (one, other) => one.slice(0, 16) === other.slice(0, 16);
/** Since when nobody has seen the page; "" while somebody does. */
const since = signal("");

/** Notes that the page is in sight, and for how long it was not. */
function look() {
  if (document.hidden) return;
  const last = Number(localStorage.getItem("seen"));
  if (last && Date.now() - last > AWAY_MS) since.value = new Date(last).toISOString();
  localStorage.setItem("seen", String(Date.now()));
}
look();
setInterval(look, LOOK_MS);
document.addEventListener("visibilitychange", look);

/** The story of the absence above the first view, until it is closed. */
export function Away() {
  const { data } = useData(since.value && may("viewer") ? `/story?${asked({ since: since.value })}` : null, slow);
  if (!since.value || !data) return null;
  const lines = data.lines.map((/** @type {any} */ line, /** @type {number} */ at) => html`<li key=${at} class=${BAD.includes(line.kind) ? "bad" : ""}><a href=${`#/${line.view}`}><${Clock} time=${line.first} />${isOnce(line.first, line.last) ? "" : html` to <${Clock} time=${line.last} />`}: <${Text} value=${line.text} /></a></li>`);
  const more = lines.slice(SHOWN);
  return html`<section class="card" aria-label="While you were away"><p class="bar"><span><b>While you were away</b>, since <${Clock} time=${since.value} />: ${lines.length ? "" : "nothing failed, went away or was answered; "}<a href=${to("money", { since: since.value })}>${data.calls.toLocaleString()} ${data.calls === 1 ? "call" : "calls"} of models${data.cost_usd === null ? "" : ` for ${dollars(data.cost_usd)}`}</a>.</span> <button type="button" title="Goes on from here; mesh story tells it again" onClick=${() => { since.value = ""; }}>Close</button></p>
    ${lines.length ? html`<ul class="findings">${lines.slice(0, SHOWN)}</ul>` : null}
    ${more.length ? html`<details><summary>${more.length} more</summary><ul class="findings">${more}</ul></details>` : null}</section>`;
}
