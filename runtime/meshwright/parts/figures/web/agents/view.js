// @ts-check
/** Agents: what each does now, its slots and queue, and how its tasks ended in the last hours; or one of them. */
import { html } from "/ui/vendor/preact.js";
import { Ago, asked, Asking, Count, dollars, Failed, route, slow, span, Status, Table, TaskLink, to, useData } from "/ui/lib.js";
import { columnsOf, hourOf, Hours, Spark, useTrends } from "/ui/trend.js";
import { Text } from "/ui/unseen.js";

/** @typedef {import("/ui/trend.js").Words} Words */

const WORDS = /** @type {Words} */ (["succeeded", "failed or timed out"]);
const ENDS = ["succeeded", "failed", "timed_out", "cancelled"];
const NAMED = 2;

/** The view: all agents, or one. */
export default function AgentsPage() {
  const { data: figures, error } = useData("/figures", slow);
  const { data: agents } = useData("/agents", slow);
  const { data: trends } = useTrends();
  const { data: running } = useData("/tasks?status=running&limit=200");
  const name = route.value.id;
  if (!figures || !agents) return html`<h1>${name || "Agents"}</h1><${Failed} error=${error} /><${Asking} of=${{ error }} />`;
  const rows = rowsOf(figures, agents.items, trends, running?.items ?? []);
  if (!name) return html`<h1>Agents</h1><${Failed} error=${error} /><${All} rows=${rows} trends=${trends} />`;
  const agent = rows.find((row) => row.agent_id === name);
  return agent ? html`<${One} agent=${agent} figures=${figures} trends=${trends} />` : html`<h1>${name}</h1><p class="empty">The mesh has no agent of that name. <a href=${to("agents")}>Show all</a></p>`;
}

/** Figures, presence, trend and running tasks of each agent. @param {any} figures @param {any[]} infos @param {any} trends @param {any[]} running @returns {any[]} */
function rowsOf(figures, infos, trends, running) {
  const named = infos.filter((info) => info.kind !== "system").map((info) => info.agent_id);
  const names = [...new Set([...named, ...figures.agents.map((/** @type {any} */ agent) => agent.agent_id)])].sort();
  const by = (/** @type {any[]} */ items) => new Map(items.map((item) => [item.agent_id, item]));
  const [counted, present, trend] = [by(figures.agents), by(infos), by(trends?.agents ?? [])];
  return names.map((name) => {
    const hours = trend.get(name)?.hours ?? [];
    const ended = Object.fromEntries(ENDS.map((end) => [end, hours.reduce((/** @type {number} */ all, /** @type {any} */ hour) => all + hour[end], 0)]));
    const worked = ended.succeeded + ended.failed + ended.timed_out;
    return { agent_id: name, waiting: 0, running: 0, parked: 0, stuck: 0, ...counted.get(name), info: present.get(name), hours, ended, success: worked ? ended.succeeded / worked : null, tasks: running.filter((task) => task.agent_id === name) };
  });
}

/** The address of tasks of an agent. @param {any} agent @param {Record<string, any>} [more] */
const tasksOf = (agent, more = {}) => to("tasks", { agent_id: agent.agent_id, ...more });
/** Its columns. @param {any} agent @param {any} trends */
const columns = (agent, trends) => columnsOf(trends, agent.hours, (/** @type {any} */ hour) => {
  const poor = hour.failed + hour.timed_out;
  const status = hour.failed ? "failed" : hour.timed_out ? "timed_out" : "succeeded";
  return { good: hour.succeeded, poor, href: tasksOf(agent, { status, ...hourOf(hour.time) }) };
});
/** The share that succeeded, rounded down so that one failure shows. @param {number | null} share */
const percent = (share) => (share == null ? "" : `${Math.floor(share * 100)} %`);

/** @param {{agent: any}} given */
function Health({ agent }) {
  const { info } = agent;
  if (!info) return html`<span class="status s-failed">not loaded</span>`;
  const state = !info.healthy ? "unhealthy" : info.status !== "online" ? info.status : agent.state ?? "well";
  return html`<span class=${`status ${state === "well" ? "s-succeeded" : "s-failed"}`} title=${info.problem ?? ""}>${state}</span>`;
}

/** Slots in use. @param {{agent: any}} given */
const Slots = ({ agent }) => html`<${Count} value=${agent.running} href=${tasksOf(agent, { status: "running" })} />${agent.slots == null ? "" : html` <span class="dim">of ${agent.slots}</span> <meter aria-hidden="true" min="0" max=${agent.slots} value=${agent.running}></meter>`}`;

/** @param {{rows: any[], trends: any}} given */
const All = ({ rows, trends }) =>
  html`<${Table} label="Agents" heads=${["Agent", "State", "Last 24 hours", "#Success", "#Failed", "#Slots in use", "#Queue", "#Parked", "#p50", "#Today"]}>${rows.map((agent) => html`<tr key=${agent.agent_id}>
    <td class="named"><a class="title" href=${to(`agents/${encodeURIComponent(agent.agent_id)}`)}>${agent.agent_id}</a><${Now} agent=${agent} /></td>
    <td class="whole"><${Health} agent=${agent} />${agent.stuck ? html` <a class="bad" href=${to("tasks", { stuck: 1 })}>${agent.stuck} stuck</a>` : ""}</td>
    <td>${trends ? html`<${Spark} columns=${columns(agent, trends)} words=${WORDS} />` : ""}</td>
    <td class="number">${percent(agent.success)}</td>
    <td class="number"><${Count} value=${agent.ended.failed} href=${tasksOf(agent, { status: "failed", since: trends?.since })} />${agent.ended.timed_out ? html`<br /><a href=${tasksOf(agent, { status: "timed_out", since: trends?.since })}>${agent.ended.timed_out} timed out</a>` : ""}</td>
    <td class="number"><${Slots} agent=${agent} /></td>
    <td class="number"><${Count} value=${agent.waiting} href=${tasksOf(agent, { status: "dispatched" })} />${agent.oldest ? html`<br /><span class="dim"><${Ago} time=${agent.oldest} /></span>` : ""}</td>
    <td class="number"><${Count} value=${agent.parked} href=${tasksOf(agent, { status: "waiting" })} /></td>
    <td class="number">${span(agent.p50_seconds)}</td>
    <td class="number"><a href=${to("money", { by: "agent" })}>${dollars(agent.cost_today_usd)}</a></td></tr>`)}<//>`;

/** The tasks that an agent works on, by their titles; else what it can do. @param {{agent: any}} given */
function Now({ agent }) {
  const { tasks, info } = agent;
  if (!tasks.length) return html`<span class="dim under">${(info?.capabilities ?? []).map((/** @type {any} */ one) => one.name ?? one).join(", ")}</span>`;
  return html`<span class="under">${tasks.slice(0, NAMED).map((/** @type {any} */ task, /** @type {number} */ at) => html`${at ? ", " : ""}<a key=${task.task_id} href=${to(`task/${task.task_id}`)}><${Text} value=${task.title ?? task.capability} /></a>`)}${tasks.length > NAMED ? html` <span class="dim">and ${tasks.length - NAMED} more</span>` : ""}</span>`;
}

/** One agent. @param {{agent: any, figures: any, trends: any}} given */
function One({ agent, figures, trends }) {
  const { data: causes } = useData(`/dead-letters?${asked({ agent_id: agent.agent_id, limit: 20 })}`, slow);
  const parked = figures.parked.filter((/** @type {any} */ one) => one.agent_id === agent.agent_id);
  const cards = [
    ["running", agent.running, tasksOf(agent, { status: "running" }), agent.slots == null ? "" : `of ${agent.slots} slots`],
    ["queue", agent.waiting, tasksOf(agent, { status: "dispatched" }), agent.oldest ? html`oldest <${Ago} time=${agent.oldest} />` : ""],
    ["parked", agent.parked, tasksOf(agent, { status: "waiting" }), ""],
    ["failed", agent.ended.failed, tasksOf(agent, { status: "failed", since: trends?.since }), "in 24 hours"],
    ["success", percent(agent.success) || "none", tasksOf(agent), "in 24 hours"],
    ["today", dollars(agent.cost_today_usd), to("money", { by: "agent" }), agent.calls_today ? `${agent.calls_today.toLocaleString()} ${agent.calls_today === 1 ? "call" : "calls"}` : ""],
  ];
  return html`<p class="dim"><a href=${to("agents")}>Agents</a></p><h1>${agent.agent_id} <${Health} agent=${agent} /></h1>
    ${agent.info?.problem ? html`<p class="bad"><${Text} value=${agent.info.problem} /></p>` : null}
    <ul class="cards">${cards.map(([name, value, href, more]) => html`<li key=${name}><a href=${href}><span class="dim">${name}</span> <b class=${name === "failed" && value ? "bad" : ""}>${value}</b> <span class="dim">${more}</span></a></li>`)}</ul>
    ${agent.tasks.length ? html`<h2>What it does now</h2><${Table} label="Running tasks" heads=${["Task", "State", "Since"]}>${agent.tasks.map((/** @type {any} */ task) => html`<tr key=${task.task_id}><td class="titled"><a class="title" href=${to(`task/${task.task_id}`)}><${Text} value=${task.title ?? task.capability} /></a><span class="dim under">${task.capability} · <${TaskLink} id=${task.task_id} /></span></td><td><${Status} status=${task.status} /></td><td><${Ago} time=${task.updated_at} /></td></tr>`)}<//>` : null}
    ${parked.length ? html`<h2>What its tasks wait for</h2><ul class="causes">${parked.map((/** @type {any} */ one) => html`<li key=${`${one.kind} ${one.account} ${one.may_answer}`}><a href=${tasksOf(agent, { waits_for: one.kind })}><b>${one.count}</b> for ${one.kind === "provider" ? "a model" : one.kind} <span class="dim">since <${Ago} time=${one.oldest} /></span></a></li>`)}</ul>` : null}
    ${causes?.items.length ? html`<h2>What failed, by cause</h2><ul class="causes">${causes.items.map((/** @type {any} */ one) => html`<li key=${one.error}><a href=${tasksOf(agent, { error: one.error, ...(one.error ? {} : { status: "timed_out" }) })} title=${one.reason ?? ""}><b class="bad">${one.tasks}</b> ${one.error ?? "timed out"} <span class="dim"><${Ago} time=${one.last_at} /></span></a></li>`)}</ul>` : null}
    ${trends ? html`<h2>Tasks that ended, hour by hour</h2>${agent.hours.length ? html`<${Hours} label="Tasks by hour" columns=${columns(agent, trends)} words=${WORDS} /><${Ended} agent=${agent} />` : html`<p class="empty">No task of it has ended in the last 24 hours.</p>`}` : null}
    <h2>Facts</h2><dl class="facts">
      <dt>Can do</dt><dd>${(agent.info?.capabilities ?? []).map((/** @type {any} */ one) => one.name ?? one).join(", ") || "nothing now"}</dd>
      <dt>Attempts</dt><dd>${agent.rate == null ? "" : `${agent.rate} a minute`}${agent.p50_seconds == null ? "" : `, half take up to ${span(agent.p50_seconds)}, nine of ten up to ${span(agent.p90_seconds)}`}</dd>
      <dt>Seen</dt><dd>${agent.info ? html`<${Ago} time=${agent.info.last_seen} />` : "never"}</dd></dl>`;
}

/** The chart as a table, the latest first; each number leads to its tasks. @param {{agent: any}} given */
const Ended = ({ agent }) =>
  html`<details><summary>The same as a table</summary><${Table} label="Tasks that ended by hour" heads=${["Hour", ...ENDS.map((end) => `#${end[0].toUpperCase()}${end.slice(1).replace("_", " ")}`)]}>${[...agent.hours].reverse().map((/** @type {any} */ hour) => html`<tr key=${hour.time}><td>${new Date(hour.time).toLocaleString([], { weekday: "short", hour: "2-digit", minute: "2-digit" })}</td>${ENDS.map((end) => html`<td key=${end} class="number"><${Count} value=${hour[end]} href=${tasksOf(agent, { status: end, ...hourOf(hour.time) })} /></td>`)}</tr>`)}<//></details>`;
