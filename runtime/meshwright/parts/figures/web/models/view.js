// @ts-check
/** Models: whether each deployment answers, why not and when it is tried again, and its last hours; or one of them. */
import { html } from "/ui/vendor/preact.js";
import { act, Ago, asked, Asking, call, Count, dollars, Failed, may, me, route, slow, span, Table, tenant, to, useData } from "/ui/lib.js";
import { columnsOf, Hours, Spark, useTrends } from "/ui/trend.js";
import { Text } from "/ui/unseen.js";

const WORDS = /** @type {import("/ui/trend.js").Words} */ (["answered", "failed"]);
const LISTED = 20;

/** The view: all deployments, or one. */
export default function ModelsPage() {
  const { data: figures, error } = useData("/figures", slow);
  const { data: status } = useData("/status", slow);
  const { data: trends } = useTrends();
  const name = route.value.id;
  if (!figures || !status) return html`<h1>${name || "Models"}</h1><${Failed} error=${error} /><${Asking} of=${{ error }} />`;
  if (!me.value.all_tenants || tenant.value) return html`<h1>Models</h1><p class="empty">Models are shown to callers who act for all tenants.</p>`;
  const trend = new Map((trends?.models ?? []).map((/** @type {any} */ one) => [one.deployment, one]));
  const reasons = new Map((status.deployments ?? []).map((/** @type {any} */ one) => [one.deployment, one.reason]));
  const known = new Map(figures.models.map((/** @type {any} */ model) => [model.deployment, model]));
  const names = [...new Set([...known.keys(), ...trend.keys()])].sort();
  const rows = names.map((deployment) => ({ deployment, well: true, ...known.get(deployment), trend: trend.get(deployment), why: reasons.get(deployment) ?? known.get(deployment)?.reason }));
  const waits = status.waits.find((/** @type {any} */ wait) => wait.kind === "provider");
  if (!name) return html`<h1>Models</h1><${Failed} error=${error} /><${All} rows=${rows} trends=${trends} waits=${waits} />`;
  const model = rows.find((row) => row.deployment === name);
  return model ? html`<${One} model=${model} trends=${trends} />` : html`<h1>${name}</h1><p class="empty">The mesh knows no deployment of that name. <a href=${to("models")}>Show all</a></p>`;
}

/** @param {string} name */
const Link = (name) => html`<a class="title" href=${to(`models/${encodeURIComponent(name)}`)}>${name}</a>`;
/** @param {any} model @param {any} trends */
const columns = (model, trends) => columnsOf(trends, model.trend?.hours ?? [], (/** @type {any} */ hour) => ({ good: hour.calls - hour.failed, poor: hour.failed }));
/** @param {Record<string, number> | undefined} counts */
const sum = (counts) => Object.values(counts ?? {}).reduce((all, count) => all + count, 0);
/** @param {{model: any}} given */
const State = ({ model }) => html`<span class=${`status ${model.well ? "s-succeeded" : "s-failed"}`}>${model.well ? "well" : "away"}</span>`;
/** The calls of a deployment, or those that failed at it. @param {any} trends @param {Record<string, string>} of */
const callsAt = (trends, of) => to("events", { ...of, since: trends?.since });
/** @param {number} count @param {string} what @param {Record<string, string>} of */
const Waiting = (count, what, of) => (count ? html`<a href=${to("tasks", of)}>${count.toLocaleString()} ${count === 1 ? "task waits" : "tasks wait"} for ${what}</a>.` : `No task waits for ${what}.`);
/** @param {{model: any}} given */
const WaitingForIt = ({ model }) => Waiting(model.waiting, "it", { waits_for_model: model.deployment });

/** Since when it is away, why, and when it is tried again. @param {{model: any}} given */
const Away = ({ model }) => html`<p class="bad">Away ${model.since ? html`since ${new Date(model.since).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" })} (<${Ago} time=${model.since} />)` : ""}: <${Text} value=${model.why || "no reason is known"} />. Next try ${model.until && Date.parse(model.until) > Date.now() ? html`<${Ago} time=${model.until} />` : "with the next call"}.</p>`;

/** Those that are away come first. @param {{rows: any[], trends: any, waits: any}} given */
function All({ rows, trends, waits }) {
  const away = rows.filter((model) => !model.well);
  if (!rows.length) return html`<p class="empty">No model was called, and none is declared: the mesh answers offline, or by a server that no call has reached.</p>`;
  return html`${away.length || waits ? html`<section class="card" aria-label="What is away">${away.map((model) => html`<div key=${model.deployment}><b>${Link(model.deployment)}</b><${Away} model=${model} /><p><${WaitingForIt} model=${model} /></p></div>`)}<p>${Waiting(waits?.tasks, "a model", { waits_for: "provider" })} ${away.length ? html`<${Test} />` : null}</p></section>` : null}
    <${Table} label="Models" heads=${["Deployment", "State", "Last 24 hours", "#Calls", "#Failed", "#p50", "#p95", "#Replaced", "#Cost"]}>${[...away, ...rows.filter((model) => model.well)].map((model) => html`<tr key=${model.deployment}>
      <td class="named">${Link(model.deployment)}<span class="dim under">${[model.trend?.group, model.trend?.model].filter(Boolean).join(" · ")}</span>${sum(model.trend?.errors) ? html`<span class="bad under">${Object.entries(model.trend.errors).map(([error, count], at) => `${at ? ", " : ""}${count} ${error}`)}</span>` : ""}</td>
      <td><${State} model=${model} /></td>
      <td>${trends ? html`<${Spark} columns=${columns(model, trends)} words=${WORDS} />` : ""}</td>
      <td class="number"><${Count} value=${model.trend?.calls ?? 0} href=${callsAt(trends, { deployment: model.deployment })} /></td>
      <td class=${`number ${sum(model.trend?.errors) ? "bad" : "dim"}`}><${Count} value=${sum(model.trend?.errors)} href=${callsAt(trends, { failed_at: model.deployment })} /></td>
      <td class="number">${span(model.trend?.p50_seconds)}</td><td class="number">${span(model.trend?.p95_seconds)}</td>
      <td class="number">${sum(model.trend?.replaced_by) || html`<span class="dim">0</span>`}</td>
      <td class="number"><a href=${to("money", { by: "deployment" })}>${dollars(model.trend?.cost_usd ?? 0)}</a></td></tr>`)}<//>
    ${trends?.is_cut ? html`<p class="dim">The hours are of the newest 10,000 calls.</p>` : null}`;
}

/** Calls each deployment; one that answers gets calls again. @param {{group?: string}} given */
const Test = ({ group }) =>
  may("operator") ? html`<button type="button" title="Calls each deployment up to eight times, for a few tokens" onClick=${() => act("They were tested: what answers gets calls again", () => call("POST", "/deployments/test", group ? { model: group } : {}))}>${group ? `Test ${group}` : "Test all models"}</button>` : null;

/** One deployment. @param {{model: any, trends: any}} given */
function One({ model, trends }) {
  const name = model.deployment;
  const { data: tasks } = useData(model.waiting ? `/tasks?${asked({ waits_for_model: name, limit: LISTED })}` : null, slow);
  const calls = callsAt(trends, { deployment: name });
  const failed = callsAt(trends, { failed_at: name });
  const { trend } = model;
  const errors = Object.entries(trend?.errors ?? {});
  const cards = [
    ["calls", (trend?.calls ?? 0).toLocaleString(), calls, "in 24 hours"],
    ["failed", sum(trend?.errors).toLocaleString(), failed, trend?.calls ? `${((100 * sum(trend.errors)) / trend.calls).toFixed(1)} %` : ""],
    ["p50", span(trend?.p50_seconds) || "–", calls, "of answers"],
    ["p95", span(trend?.p95_seconds) || "–", calls, "of answers"],
    ["cost", dollars(trend?.cost_usd ?? 0), to("money", { by: "deployment" }), trend?.unpriced ? `${trend.unpriced} without a price` : ""],
  ];
  return html`<p class="dim"><a href=${to("models")}>Models</a></p><h1>${model.deployment} <${State} model=${model} /></h1>
    ${model.well ? null : html`<section class="card" aria-label="Why it is away"><${Away} model=${model} /><p><${WaitingForIt} model=${model} /> ${trend?.group ? html`<${Test} group=${trend.group} />` : null}</p></section>`}
    ${trend?.model ? html`<p class="dim">${trend.model}, in the group ${trend.group}.</p>` : null}
    <ul class="cards">${cards.map(([name, value, href, more]) => html`<li key=${name}><a href=${href}><span class="dim">${name}</span> <b class=${name === "failed" && errors.length ? "bad" : ""}>${value}</b> <span class="dim">${more}</span></a></li>`)}</ul>
    ${errors.length ? html`<h2>What failed, by kind</h2><${Table} label="Errors" heads=${["Error", "#In 24 hours"]}>${errors.map(([error, count]) => html`<tr key=${error}><td class="bad">${error}</td><td class="number"><${Count} value=${count} href=${errors.length === 1 ? failed : ""} /></td></tr>`)}<//>` : null}
    ${tasks?.items.length ? html`<h2>What waits for it</h2><${Table} label="Waiting tasks" heads=${["Task", "Agent", "Since"]}>${tasks.items.map((/** @type {any} */ task) => html`<tr key=${task.task_id}><td class="titled"><a class="title" href=${to(`task/${task.task_id}`)}><${Text} value=${task.title ?? task.capability} /></a></td><td>${task.agent_id}</td><td><${Ago} time=${task.updated_at} /></td></tr>`)}<//>` : null}
    <${Others} title="Others that answered in its place" counts=${trend?.replaced_by} /><${Others} title="Others in whose place it answered" counts=${trend?.in_place_of} />
    ${trends && trend?.hours.length ? html`<h2>Calls, hour by hour</h2><${Hours} label="Calls by hour" columns=${columns(model, trends)} words=${WORDS} />
      <${Table} label="Calls by hour as a table" heads=${["Hour", "#Calls", "#Failed", "#p50", "#p95"]}>${[...trend.hours].reverse().map((/** @type {any} */ hour) => html`<tr key=${hour.time}><td>${new Date(hour.time).toLocaleString([], { weekday: "short", hour: "2-digit", minute: "2-digit" })}</td><td class="number">${hour.calls.toLocaleString()}</td><td class=${`number ${hour.failed ? "bad" : "dim"}`}>${hour.failed.toLocaleString()}</td><td class="number">${span(hour.p50_seconds)}</td><td class="number">${span(hour.p95_seconds)}</td></tr>`)}<//>` : html`<p class="empty">No call has reached it in the last 24 hours.</p>`}
    ${trends?.is_cut ? html`<p class="dim">These are of the newest 10,000 calls.</p>` : null}`;
}

/** @param {{title: string, counts: Record<string, number> | undefined}} given */
const Others = ({ title, counts }) =>
  sum(counts) ? html`<h2>${title}</h2><ul class="causes">${Object.entries(counts ?? {}).map(([name, count]) => html`<li key=${name}><a href=${to(`models/${encodeURIComponent(name)}`)}><b>${count}</b> ${name}</a></li>`)}</ul>` : null;
