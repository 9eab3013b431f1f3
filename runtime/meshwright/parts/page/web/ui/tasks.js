// @ts-check
/** The tasks: counted by state and by cause, filtered, cancelled and worked on again. */
import { html, useState } from "./vendor/preact.js";
import { cancelAll, cancelOne, retryAll, retryOne } from "./again.js";
import { Ago, asked, Asking, Count, dollars, Failed, isWide, Match, may, route, slow, span, Status, Table, TaskLink, to, Unindexed, useData } from "./lib.js";
import { SavedFilters } from "./saved.js";
import { Text } from "./unseen.js";

const FILTERS = ["status", "agent_id", "capability", "requested_by", "model", "error", "since", "until", "text", "thread_id", "parent_task_id", "prompt", "tag", "task_id", "waits_for", "waits_for_model", "dead", "lacks"];
const FIELDS = [["agent_id", "Agent"], ["capability", "Capability"], ["requested_by", "Requested by"], ["error", "Error"], ["since", "Since (24h)"]];
const MORE = [["until", "Until"], ["model", "Model"], ["prompt", "Prompt"], ["tag", "Tag"], ["task_id", "Id"], ["thread_id", "Thread"], ["parent_task_id", "Delegated by"]];
const STATES = ["accepted", "dispatched", "running", "waiting", "succeeded", "failed", "cancelled", "timed_out"];
const ENDS = STATES.slice(4);
const PAGE = 50;
/** Each kind of wait in words. */
export const WAITS = { person: "a person", task: "another task", timer: "a time", event: "an event", provider: "a model", money: "money", program: "a program" };

/** The filter of the address. */
const filter = () => Object.fromEntries(FILTERS.map((name) => [name, route.value.query.get(name) ?? ""]).filter(([, value]) => value));

/** The view. */
export default function Tasks() {
  const wanted = filter();
  const onlyStuck = route.value.query.has("stuck");
  const [more, setMore] = useState(1);
  const { data, error } = useData(`/tasks?${asked({ ...wanted, ...(onlyStuck ? { status: "running" } : {}), limit: onlyStuck ? 500 : PAGE * more })}`);
  const { data: figures } = useData("/figures", slow);
  const stuck = new Map((figures?.stuck ?? []).map((/** @type {any} */ one) => [one.task_id, one]));
  const isGone = error?.status === 404; // no task has such a value, any more
  const items = (isGone ? [] : data?.items ?? []).filter((/** @type {any} */ item) => !onlyStuck || stuck.has(item.task_id));
  return html`<h1>Tasks</h1>
    <${Counts} figures=${figures} />
    <${Causes} wanted=${wanted} />
    <${SavedFilters} view="tasks" wanted=${wanted} />
    <${Filter} wanted=${wanted} key=${JSON.stringify(wanted)} />
    ${onlyStuck ? html`<p>Running for over twice the time that nine of ten tasks of their agent take. <a href=${to("tasks")}>Show all</a></p>` : null}
    <${Unindexed} count=${data?.unindexed ?? 0} /><${Failed} error=${isGone ? null : error} /><${Asking} of=${{ data, error }} />
    ${data ? html`${onlyStuck ? null : html`<${Again} wanted=${wanted} items=${items} />`}<${Rows} items=${items} stuck=${stuck} />` : null}
    ${isGone || (data && items.length === 0) ? html`<p class="empty">No task matches this filter.${isGone ? ` ${error.message}. ${error.remedy}` : ""}</p>` : null}
    ${data?.cursor && more < 10 && !onlyStuck ? html`<button type="button" onClick=${() => setMore(more + 1)}>Show more</button>` : null}
    ${data?.cursor && more >= 10 ? html`<p class="dim">The newest ${PAGE * more} are shown: filter for others.</p>` : null}`;
}

/** Open tasks by state, and those that failed; each number leads to them. @param {{figures: any}} given */
function Counts({ figures }) {
  const { data } = useData("/status");
  const open = data?.tasks;
  const cards = [
    ...["running", "waiting", "dispatched", "accepted"].map((state) => [state, open ? (open[state] ?? 0) : "", to("tasks", { status: state })]),
    ["failed", figures?.dead_letters.failed ?? "", to("tasks", { status: "failed" })],
    ["timed out", figures?.dead_letters.timed_out ?? "", to("tasks", { status: "timed_out" })],
    ["stuck", figures?.stuck.length ?? "", to("tasks", { stuck: 1 })],
  ];
  return html`<ul class="cards">${cards.map(([name, count, href]) => html`<li key=${name} class=${count === 0 ? "none" : ""}><a href=${href}><span class="dim">${name}</span> <b class=${count ? `s-${String(name).replace(" ", "_")}` : ""}>${count.toLocaleString()}</b></a></li>`)}</ul>
    ${!data || data.waits.length ? html`<ul class="causes" aria-label="What is waited for">${(data?.waits ?? []).map((/** @type {any} */ wait) => html`<li key=${wait.kind}><a href=${to("tasks", { waits_for: wait.kind })} aria-current=${route.value.query.get("waits_for") === wait.kind ? "true" : undefined}><b class="s-waiting">${wait.tasks.toLocaleString()}</b> ${wait.tasks === 1 ? "waits" : "wait"} for ${WAITS[/** @type {"person"} */ (wait.kind)] ?? wait.kind} <span class="dim">the oldest <${Ago} time=${wait.oldest} /></span></a></li>`)}</ul>` : null}`;
}

/** What failed, by agent and type of error; each leads to its tasks. @param {{wanted: Record<string, string>, title?: string}} given */
export function Causes({ wanted, title = "" }) {
  const { data } = useData("/dead-letters?limit=50", slow);
  if (!data?.items.length) return null;
  const shown = data.items.slice(0, 8);
  return html`${title ? html`<h2>${title}</h2>` : null}<ul class="causes" aria-label="What failed, by cause">${shown.map((/** @type {any} */ one) => {
    const lacks = ["agent_id", "error"].filter((name) => !one[name]).join();
    const isShown = wanted.dead && wanted.error === (one.error ?? undefined) && wanted.agent_id === (one.agent_id ?? undefined);
    return html`<li key=${`${one.agent_id} ${one.error}`}><a href=${to("tasks", { agent_id: one.agent_id, error: one.error, lacks, dead: "true" })} aria-current=${isShown ? "true" : undefined} title=${one.reason ?? ""}><b class="bad">${one.tasks.toLocaleString()}</b> ${one.error ?? "timed out"} <span class="dim">${one.agent_id ?? "no agent"}, <${Ago} time=${one.last_at} /></span></a></li>`;
  })}${data.items.length > shown.length ? html`<li class="dim">${data.items.length - shown.length} more causes</li>` : null}</ul>`;
}

/** @param {{wanted: Record<string, string>}} given */
function Filter({ wanted }) {
  const send = (/** @type {any} */ event) => {
    event.preventDefault();
    const given = Object.fromEntries([...new FormData(event.target)].map(([name, value]) => [name, String(value).trim()]));
    location.hash = to("tasks", { ...wanted, ...given });
  };
  const midnight = new Date(new Date().setHours(0, 0, 0, 0)).toISOString();
  const field = (/** @type {string[]} */ [name, title]) => html`<label key=${name}>${title} <input name=${name} defaultValue=${wanted[name] ?? ""} size="10" /></label>`;
  return html`<details class="filters" open=${Object.keys(wanted).length > 0 && isWide}><summary>Filters <span class="dim">${Object.entries(wanted).map(([name, value]) => (name === "dead" ? "failed" : value)).join(", ")}</span></summary><form class="bar" role="search" onSubmit=${send}>
    <label>State <select name="status" onChange=${(/** @type {any} */ event) => event.target.form.requestSubmit()}>
      <option value="">all</option>${STATES.map((state) => html`<option key=${state} value=${state} selected=${state === wanted.status}>${state.replace("_", " ")}</option>`)}
    </select></label>
    ${[...FIELDS, ...(may("contents") ? [["text", "Words"]] : [])].map(field)}
    <details class="more" open=${MORE.some(([name]) => wanted[name])}><summary>More</summary><div class="bar">${MORE.map(field)}</div></details>
    <button>Filter</button> <span class="dim">Ended today: ${ENDS.map((state) => html`<a key=${state} href=${to("tasks", { status: state, since: midnight })}>${state.replace("_", " ")}</a> `)}</span> ${Object.keys(wanted).length ? html`<a href=${to("tasks")}>Show all</a>` : null}
  </form></details>`;
}

/** Work again on all that match a filter, or cancel them. @param {{wanted: Record<string, string>, items: any[]}} given */
function Again({ wanted, items }) {
  if (!may("operator") || items.length === 0 || !Object.keys(wanted).length) return null;
  const failed = items.some((item) => ["failed", "timed_out", "cancelled"].includes(item.status));
  const open = items.some((item) => !item.completed_at);
  return html`<p class="bar">
    ${failed ? html`<button type="button" onClick=${() => retryAll(wanted)}>Retry all that match…</button>` : null}
    ${open ? html`<button type="button" onClick=${() => cancelAll(wanted)}>Cancel all that match…</button>` : null}
  </p>`;
}

/** A task in two lines: its title, and who works on it with the reason or what it cost. @param {{items: any[], stuck: Map<any, any>}} given */
function Rows({ items, stuck }) {
  if (!items.length) return null;
  return html`<${Table} label="Tasks" kind="short" heads=${["Task", "State", "#Cost", "#Time", "Changed", ""]}>${items.map((item) => html`<tr key=${item.task_id}>
      <td class="titled"><a class="title" href=${to(`task/${item.task_id}`)}><${Text} value=${item.title ?? item.capability} /></a>
        <span class="dim under"><${Count} value=${item.agent_id} href=${to("tasks", { agent_id: item.agent_id })} /> · ${item.capability} · <${TaskLink} id=${item.task_id} />${item.reason ? html` · <span class=${item.error ? "bad" : ""} title=${item.reason}><${Text} value=${item.reason} /></span>` : ""}</span>${item.match ? html`<${Match} of=${item.match} />` : null}</td>
      <td><${Status} status=${item.status} />${stuck.has(item.task_id) ? html` <span class="tag bad" title=${`runs for ${span(stuck.get(item.task_id).running_seconds)}; nine of ten take ${span(stuck.get(item.task_id).p90_seconds)}`}>stuck</span>` : ""}</td>
      <td class="number">${item.completed_at ? dollars(item.cost_usd) : ""}</td>
      <td class="number">${item.duration_ms == null ? "" : span(item.duration_ms / 1000)}</td>
      <td><${Ago} time=${item.updated_at} /></td>
      <td><${Buttons} id=${item.task_id} status=${item.status} /></td>
    </tr>`)}<//>`;
}

/** What may be done with a task as it is. @param {{id: string, status: string}} given */
export function Buttons({ id, status }) {
  if (!may("operator", "submitter")) return null;
  if (["failed", "timed_out", "cancelled"].includes(status)) return html`<button type="button" onClick=${() => retryOne(id)}>Retry…</button>`;
  return status === "succeeded" ? null : html`<button type="button" class="no" onClick=${() => cancelOne(id)}>Cancel…</button>`;
}
