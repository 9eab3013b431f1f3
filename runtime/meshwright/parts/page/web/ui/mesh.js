// @ts-check
/** The mesh: its agents as a graph and as a table, its workers with their leases, and its models. */
import { html } from "./vendor/preact.js";
import { Ago, Asking, callsOf, Count, dollars, Failed, slow, span, Table, to, useData } from "./lib.js";
import { Topology } from "./topology.js";

/** The view. */
export function MeshPage() {
  const { data: figures, error } = useData("/figures");
  const { data: agents } = useData("/agents", slow);
  if (!figures) return html`<h1>Mesh</h1><${Failed} error=${error} /><${Asking} of=${{ error }} />`;
  const known = Object.fromEntries((agents?.items ?? []).map((/** @type {any} */ agent) => [agent.agent_id, agent]));
  const names = [...new Set([...(agents?.items ?? []).filter((/** @type {any} */ agent) => agent.kind !== "system").map((/** @type {any} */ agent) => agent.agent_id), ...figures.agents.map((/** @type {any} */ agent) => agent.agent_id)])].sort();
  const rows = names.map((name) => ({ ...(figures.agents.find((/** @type {any} */ agent) => agent.agent_id === name) ?? { agent_id: name }), info: known[name] }));
  return html`<h1>Mesh</h1><${Failed} error=${error} />
    ${figures.models.length ? html`<h2>Models</h2><${Models} models=${[...figures.models].sort((/** @type {any} */ one, /** @type {any} */ other) => Number(one.well) - Number(other.well))} />` : null}
    <h2>Agents</h2><${Agents} rows=${rows} />
    ${figures.workers.length ? html`<h2>Workers</h2><${Workers} workers=${figures.workers} />` : null}
    <h2>What passes between them</h2><${Topology} rows=${rows} />
    ${figures.disk ? html`<p class="dim">The database has ${(figures.disk.store_bytes / 1e6).toFixed(1)} MB; ${(figures.disk.free_bytes / 1e9).toFixed(1)} GB of the disk are free.</p>` : null}`;
}

/** @param {{rows: any[]}} given */
const Agents = ({ rows }) =>
  html`<${Table} label="Agents" heads=${["Agent", "Health", "#Running", "#Slots", "#Waiting", "#Parked", "Oldest", "#Success", "#p50", "#p90", "#Today", "Can do"]}>${rows.map((agent) => {
    const id = agent.agent_id;
    const of = (/** @type {any} */ more) => to("tasks", { agent_id: id, ...more });
    const isWell = agent.info?.status === "online" && agent.info.healthy;
    return html`<tr key=${id}><td><a href=${of({})}>${id}</a></td>
      <td>${agent.info ? html`<span class=${isWell ? "s-succeeded" : "s-failed"} title=${agent.info.problem ?? ""}>${agent.info.healthy ? agent.info.status : `${agent.info.status}, unhealthy`}</span>` : ""}</td>
      <td class="number"><${Count} value=${agent.running ?? 0} href=${of({ status: "running" })} />${agent.stuck ? html` <a class="bad" href=${of({ status: "running" })}>${agent.stuck} stuck</a>` : ""}</td>
      <td class="number">${agent.slots ?? ""}</td>
      <td class="number"><${Count} value=${agent.waiting ?? 0} href=${of({ status: "dispatched" })} /></td>
      <td class="number"><${Count} value=${agent.parked ?? 0} href=${of({ status: "waiting" })} /></td>
      <td>${agent.oldest ? html`<${Ago} time=${agent.oldest} />` : ""}</td>
      <td class="number">${agent.success == null ? "" : html`<a href=${of({})}>${Math.round(agent.success * 100)} %</a>`}</td>
      <td class="number">${span(agent.p50_seconds)}</td><td class="number">${span(agent.p90_seconds)}</td>
      <td class="number"><a href=${to("money", { by: "agent" })}>${dollars(agent.cost_today_usd ?? 0)}</a></td>
      <td>${(agent.info?.capabilities ?? []).map((/** @type {any} */ one) => one.name ?? one).join(", ")}</td></tr>`;
  })}<//>`;

/** @param {{workers: any[]}} given */
const Workers = ({ workers }) =>
  html`<${Table} label="Workers" heads=${["Worker", "Host", "Store", "Lease", "#Running", "#Slots", "#Waiting", "Seen", "Since"]}>${workers.map((worker) => html`<tr key=${worker.incarnation}>
    <td><code title=${worker.incarnation}>…${worker.incarnation.slice(-6)}</code>${worker.is_front ? " front" : ""}${worker.apps.length ? html`<br /><span class="dim">${worker.apps.join(", ")}</span>` : ""}</td><td>${worker.host}:${worker.pid}</td><td>${worker.store}</td>
    <td><span class=${worker.lease === "held" ? "s-succeeded" : "bad"}>${worker.lease}</span></td>
    <td class="number"><${Count} value=${worker.running} href=${to("tasks", { status: "running" })} /></td><td class="number">${Object.values(worker.agents).reduce((/** @type {number} */ sum, /** @type {any} */ slots) => sum + slots, 0)}</td><td class="number"><${Count} value=${worker.waiting} href=${to("tasks", { status: "dispatched" })} /></td>
    <td><${Ago} time=${worker.seen_at} /></td><td><${Ago} time=${worker.started_at} /></td></tr>`)}<//>`;

/** @param {{models: any[]}} given */
const Models = ({ models }) =>
  html`<${Table} label="Models" heads=${["Deployment", "State", "#Calls", "#Failed", "#As a fallback", "#Tried again", "#p50", "#p90"]}>${models.map((model) => html`<tr key=${model.deployment}>
    <td>${model.deployment}</td><td>${model.well ? html`<span class="s-succeeded">well</span>` : html`<span class="bad">${model.reason || "left alone"}, next try <${Ago} time=${model.until} /></span>`}</td>
    <td class="number"><${Count} value=${model.calls} href=${to("money", { by: "model" })} /></td><td class="number"><${Count} value=${model.failed} href=${callsOf({})} /></td><td class="number"><${Count} value=${model.fallbacks} href=${callsOf({})} /></td><td class="number"><${Count} value=${model.retried} href=${callsOf({})} /></td><td class="number">${span(model.p50_seconds)}</td><td class="number">${span(model.p90_seconds)}</td></tr>`)}<//>`;
