// @ts-check
/** The frame of every view: where one can go, how the mesh is, and who one is. */
import { html, useEffect, useState } from "./vendor/preact.js";
import { Away } from "./away.js";
import { Health } from "./health.js";
import { Icon } from "./icons.js";
import { openPalette, Palette } from "./palette.js";
import { act, call, live, lostAt, may, me, notice, route, tenant, to, touch, waiting } from "./lib.js";

/** @typedef {import("./views.js").View} View */

const GROUPS = ["Work", "Fleet", "Insight", "Settings"];
/** The views in the bar of a phone, where the caller may see them. */
const NEAR = ["inbox", "tasks", "money"];
const GRACE_MS = 3_000;

/**
 * The frame around a view. `views` are those that the caller may see, by their keys.
 * @param {{views: [string, View][], current: string, children?: any}} given
 */
export function Frame({ views, current, children }) {
  const [isOpen, open] = useState(false);
  const at = `${route.value.view}/${route.value.id}`;
  useEffect(() => open(false), [at]);
  const isLost = useLoss();
  return html`<div class=${`frame ${isOpen ? "is-open" : ""} ${isLost ? "stale" : ""}`}>
    <aside class="side" aria-label="Views and you">
      <a class="unseen" href="#main" onClick=${skip}>To the content</a>
      <a class="brand" href=${to(views[0]?.[0] ?? "")}><${Icon} name="mark" /> Meshwright</a>
      <button type="button" class="close" onClick=${() => open(false)}>Close</button>
      <button type="button" class="find" onClick=${openPalette}><span>Go to…</span> <kbd aria-hidden="true">Ctrl K</kbd></button>
      <nav aria-label="Views">${grouped(views).map(([group, some]) => html`<div key=${group}><h2 id=${`group-${group}`}>${group}</h2><ul aria-labelledby=${`group-${group}`}>${some.map(([key, view]) => html`<li key=${key}><${Link} name=${key} view=${view} current=${current} /></li>`)}</ul></div>`)}</nav>
      <${Mine} />
    </aside>
    <div>
      <header class="above">${isLost ? html`<${Lost} />` : html`<${Health} />`}<${Notice} /></header>
      <${Away} /><main id="main" tabindex="-1">${children}</main>
    </div>
    <${Palette} views=${views} />
    <nav class="below" aria-label="Near">${views.filter(([key]) => NEAR.includes(key)).map(([key, view]) => html`<${Link} key=${key} name=${key} view=${view} current=${current} />`)}<button type="button" aria-expanded=${isOpen} onClick=${() => open(!isOpen)}><${Icon} name="menu" /> Menu</button></nav>
  </div>`;
}

/** The views by their groups; other packages may name groups of their own. @param {[string, View][]} views @returns {[string, [string, View][]][]} */
function grouped(views) {
  const names = [...new Set([...GROUPS.slice(0, -1), ...views.map(([, view]) => view.group), "Settings"])];
  const inOrder = names.filter((name) => name !== "Settings").concat("Settings");
  return inOrder.map((name) => /** @type {[string, [string, View][]]} */ ([name, views.filter(([, view]) => view.group === name)])).filter(([, some]) => some.length);
}

/** @param {{name: string, view: View, current: string}} given */
const Link = ({ name, view, current }) => html`<a href=${to(name)} aria-current=${name === current ? "page" : undefined}><${Icon} name=${name} /> ${view.title}${name === "inbox" && waiting.value ? html` <span class="badge">${waiting.value}</span>` : ""}</a>`;

/** Goes on with the content, for the keyboard; the address stays that of the view. @param {Event} event */
function skip(event) {
  event.preventDefault();
  document.getElementById("main")?.focus();
}

/** Whether the mesh has not answered for some seconds: a break that ends at once is not told. */
function useLoss() {
  const [isLost, set] = useState(false);
  const since = lostAt.value;
  useEffect(() => {
    set(false);
    if (!since) return undefined;
    const timer = setTimeout(() => set(true), GRACE_MS);
    return () => clearTimeout(timer);
  }, [since]);
  return isLost;
}

const Lost = () => html`<p class="lost" role="alert"><${Icon} name="lost" /> The mesh has not answered since ${new Date(lostAt.value).toLocaleTimeString()}. All that is shown is from before; it is asked again.</p>`;

/** What was done or refused last. */
const Notice = () => (notice.value ? html`<p class=${`notice ${notice.value.bad ? "bad" : ""}`} role=${notice.value.bad ? "alert" : "status"}>${notice.value.text} <button type="button" class="plain" aria-label="Close" onClick=${() => { notice.value = null; }}>×</button></p>` : null);

/** The caller, its tenant, and whether events come. */
function Mine() {
  const leave = () =>
    act("Logged out", async () => {
      await call("DELETE", "/session");
      location.reload(); // with all that was shown
    });
  return html`<div class="mine">
    ${me.value.all_tenants && me.value.logged_in ? html`<${Tenant} />` : null}
    <span class="line"><span title=${me.value.roles.join(", ")}>${me.value.name}</span> <span class="dim" role="status">${may("viewer") ? live.value : ""}</span></span>
    ${me.value.logged_in ? html`<button type="button" title="Ends this login in this browser" onClick=${leave}>Log out</button>` : null}
  </div>`;
}

/** Act for a tenant from now on. @param {string} named */
export function choose(named) {
  tenant.value = named;
  sessionStorage.setItem("tenant", named);
  touch();
}

function Tenant() {
  const set = (/** @type {any} */ event) => choose(event.target.value.trim());
  return html`<label key=${tenant.value}>Tenant <input defaultValue=${tenant.value} placeholder="all" onChange=${set} /></label>`;
}
