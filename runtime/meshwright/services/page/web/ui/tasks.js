// @ts-check
/** The tasks: counted by state, filtered, cancelled and worked on again. */
import { html, useState } from "./vendor/preact.js";
import { act, Ago, asked, call, Count, dollars, Failed, may, route, span, Status, TaskLink, to, useData } from "./lib.js";

const FILTERS = ["status", "agent_id", "capability", "requested_by", "model", "error", "since", "text", "thread_id", "parent_task_id", "prompt", "task_id"];
const STATES = ["accepted", "dispatched", "running", "waiting", "succeeded", "failed", "cancelled", "timed_out"];
const PAGE = 50;

/** The filter of the address. */
const filter = () => Object.fromEntries(FILTERS.map((name) => [name, route.value.query.get(name) ?? ""]).filter(([, value]) => value));

/** The view. */
export function Tasks() {
  const wanted = filter();
  const [more, setMore] = useState(1);
  const { data, error } = useData(`/tasks?${asked({ ...wanted, limit: PAGE * more })}`);
  return html`<h1>Tasks</h1>
    <${Counts} />
    <${Filter} wanted=${wanted} key=${JSON.stringify(wanted)} />
    <${Failed} error=${error} />
    ${data ? html`<${Again} wanted=${wanted} items=${data.items} /><${Rows} items=${data.items} />` : null}
    ${data?.items.length === 0 ? html`<p class="empty">No task agrees with that.</p>` : null}
    ${data?.cursor && more < 10 ? html`<button type="button" onClick=${() => setMore(more + 1)}>Show more</button>` : null}
    ${data?.cursor && more >= 10 ? html`<p class="dim">The newest ${PAGE * more} are shown: filter for others.</p>` : null}`;
}

/** Open tasks by state, and those that failed; each number leads to them. */
function Counts() {
  const { data } = useData("/status");
  const { data: figures } = useData(may("viewer") ? "/figures" : null);
  const open = data?.tasks ?? {};
  const cards = [
    ...["running", "waiting", "dispatched", "accepted"].map((state) => [state, open[state] ?? 0, to("tasks", { status: state })]),
    ["failed", figures?.dead_letters.failed ?? "", to("tasks", { status: "failed" })],
    ["timed out", figures?.dead_letters.timed_out ?? "", to("tasks", { status: "timed_out" })],
    ["stuck", figures?.stuck.length ?? "", to("tasks", { status: "running" })],
  ];
  return html`<ul class="cards">${cards.map(([name, count, href]) => html`<li key=${name}><a href=${href}><span class="dim">${name}</span> <b class=${count ? `s-${String(name).replace(" ", "_")}` : ""}>${count}</b></a></li>`)}</ul>
    ${data?.waits.length ? html`<p class="dim">Waits: ${data.waits.map((/** @type {any} */ wait, /** @type {number} */ at) => html`${at ? ", " : ""}${wait.count} for ${wait.kind} (the oldest <${Ago} time=${wait.oldest} />)`)}</p>` : null}`;
}

/** @param {{wanted: Record<string, string>}} given */
function Filter({ wanted }) {
  const send = (/** @type {any} */ event) => {
    event.preventDefault();
    const given = Object.fromEntries([...new FormData(event.target)].map(([name, value]) => [name, String(value).trim()]));
    location.hash = to("tasks", { ...wanted, ...given });
  };
  const fields = [["agent_id", "Agent"], ["capability", "Capability"], ["requested_by", "Requested by"], ["error", "Error"], ["since", "Since (24h)"], ...(may("contents") ? [["text", "Words"]] : [])];
  return html`<form class="bar" role="search" onSubmit=${send}>
    <label>State <select name="status" onChange=${(/** @type {any} */ event) => event.target.form.requestSubmit()}>
      <option value="">all</option>${STATES.map((state) => html`<option key=${state} value=${state} selected=${state === wanted.status}>${state.replace("_", " ")}</option>`)}
    </select></label>
    ${fields.map(([name, title]) => html`<label key=${name}>${title} <input name=${name} value=${wanted[name] ?? ""} size="10" /></label>`)}
    <button>Filter</button> ${Object.keys(wanted).length ? html`<a href=${to("tasks")}>Show all</a>` : null}
  </form>`;
}

/** Work again on all that match, or cancel them, once their number is known. @param {{wanted: Record<string, string>, items: any[]}} given */
function Again({ wanted, items }) {
  const [plan, setPlan] = useState(/** @type {{what: string, count: string, fields: any} | null} */ (null));
  if (!may("operator") || items.length === 0) return null;
  const failed = items.some((item) => ["failed", "timed_out", "cancelled"].includes(item.status));
  const open = items.some((item) => !item.completed_at);
  const fields = Object.keys(wanted).length ? wanted : { all: true };
  const look = (/** @type {string} */ what) =>
    act("Nothing is changed yet", async () => {
      const found = await call("POST", `/${what}`, { ...fields, dry_run: true, limit: 500 });
      const able = found.items.filter((/** @type {any} */ item) => !item.refused).length;
      setPlan({ what, count: `${able}${found.cursor ? " or more" : ""}`, fields });
    });
  const go = () => {
    const { what, fields: meant } = /** @type {any} */ (plan);
    setPlan(null);
    act(what === "retry" ? "They are worked on again" : "They are asked to end", () => call("POST", `/${what}`, { ...meant, limit: 500 }));
  };
  if (plan) return html`<p class="bar" role="alert">${plan.what === "retry" ? "Work again on" : "Cancel"} ${plan.count} tasks? <button type="button" class=${plan.what === "retry" ? "yes" : "no"} onClick=${go}>Yes</button> <button type="button" onClick=${() => setPlan(null)}>No</button></p>`;
  return html`<p class="bar">
    ${failed ? html`<button type="button" onClick=${() => look("retry")}>Retry all that match…</button>` : null}
    ${open ? html`<button type="button" onClick=${() => look("cancel")}>Cancel all that match…</button>` : null}
  </p>`;
}

/** @param {{items: any[]}} given */
function Rows({ items }) {
  if (!items.length) return null;
  return html`<div class="wide-table" tabindex="0" role="region" aria-label="Tasks"><table>
    <thead><tr><th>State</th><th>Task</th><th>Agent</th><th>Capability</th><th>Reason</th><th class="number">Cost</th><th class="number">Time</th><th>Changed</th><th><span class="unseen">Actions</span></th></tr></thead>
    <tbody>${items.map((item) => html`<tr key=${item.task_id}>
      <td><${Status} status=${item.status} /></td>
      <td><${TaskLink} id=${item.task_id} /></td>
      <td><${Count} value=${item.agent_id} href=${to("tasks", { agent_id: item.agent_id })} /></td>
      <td>${item.capability}</td>
      <td class="reason" title=${item.reason ?? ""}>${item.reason ?? ""}</td>
      <td class="number">${dollars(item.cost_usd)}</td>
      <td class="number">${item.duration_ms == null ? "" : span(item.duration_ms / 1000)}</td>
      <td><${Ago} time=${item.updated_at} /></td>
      <td><${Buttons} id=${item.task_id} status=${item.status} /></td>
    </tr>`)}</tbody>
  </table></div>`;
}

/** What may be done with a task as it is. @param {{id: string, status: string}} given */
export function Buttons({ id, status }) {
  if (!may("operator", "submitter")) return null;
  const retry = () => act("It is worked on again", () => call("POST", `/tasks/${id}/retry`, {}));
  const cancel = () => act("It is asked to end", () => call("POST", `/tasks/${id}/cancel`));
  if (["failed", "timed_out", "cancelled"].includes(status)) return html`<button type="button" onClick=${retry}>Retry</button>`;
  return status === "succeeded" ? null : html`<button type="button" class="no" onClick=${cancel}>Cancel</button>`;
}
