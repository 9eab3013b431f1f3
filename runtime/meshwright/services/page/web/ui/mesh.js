// @ts-check
/** The mesh: its agents, workers and models. */
import { html } from "./vendor/preact.js";
import { Ago, Count, dollars, Failed, span, to, useData } from "./lib.js";

/** The view. */
export function MeshPage() {
  const { data: figures, error } = useData("/figures");
  const { data: agents } = useData("/agents");
  if (!figures) return html`<h1>Mesh</h1><${Failed} error=${error} />`;
  const known = Object.fromEntries((agents?.items ?? []).map((/** @type {any} */ agent) => [agent.agent_id, agent]));
  const names = [...new Set([...(agents?.items ?? []).filter((/** @type {any} */ agent) => agent.kind !== "system").map((/** @type {any} */ agent) => agent.agent_id), ...figures.agents.map((/** @type {any} */ agent) => agent.agent_id)])].sort();
  const rows = names.map((name) => ({ ...(figures.agents.find((/** @type {any} */ agent) => agent.agent_id === name) ?? { agent_id: name }), info: known[name] }));
  return html`<h1>Mesh</h1>
    <h2>Agents</h2>
    <div class="wide-table" tabindex="0" role="region" aria-label="Agents"><table>
      <thead><tr><th>Agent</th><th>Health</th><th class="number">Running</th><th class="number">Slots</th><th class="number">Waiting</th><th class="number">Parked</th><th class="number">Success</th><th class="number">p50</th><th class="number">p90</th><th class="number">Today</th><th>Can do</th></tr></thead>
      <tbody>${rows.map((agent) => html`<tr key=${agent.agent_id}>
        <td><a href=${to("tasks", { agent_id: agent.agent_id })}>${agent.agent_id}</a></td>
        <td>${agent.info ? html`<span class=${agent.info.status === "online" && agent.info.healthy ? "s-succeeded" : "s-failed"} title=${agent.info.problem ?? ""}>${agent.info.healthy ? agent.info.status : `${agent.info.status}, unhealthy`}</span>` : ""}</td>
        <td class="number"><${Count} value=${agent.running ?? 0} href=${to("tasks", { agent_id: agent.agent_id, status: "running" })} />${agent.stuck ? html` <b class="bad">${agent.stuck} stuck</b>` : ""}</td>
        <td class="number">${agent.slots ?? ""}</td>
        <td class="number"><${Count} value=${agent.waiting ?? 0} href=${to("tasks", { agent_id: agent.agent_id, status: "dispatched" })} /></td>
        <td class="number"><${Count} value=${agent.parked ?? 0} href=${to("tasks", { agent_id: agent.agent_id, status: "waiting" })} /></td>
        <td class="number">${agent.success == null ? "" : `${Math.round(agent.success * 100)} %`}</td>
        <td class="number">${span(agent.p50_seconds)}</td><td class="number">${span(agent.p90_seconds)}</td>
        <td class="number"><a href=${to("money", { by: "agent" })}>${dollars(agent.cost_today_usd ?? 0)}</a></td>
        <td>${(agent.info?.capabilities ?? []).map((/** @type {any} */ one) => one.name ?? one).join(", ")}</td>
      </tr>`)}</tbody></table></div>
    ${figures.workers.length ? html`<h2>Workers</h2><div class="wide-table" tabindex="0" role="region" aria-label="Workers"><table><thead><tr><th>Worker</th><th>Host</th><th>Store</th><th>Lease</th><th class="number">Running</th><th class="number">Waiting</th><th>Seen</th><th>Since</th></tr></thead>
      <tbody>${figures.workers.map((/** @type {any} */ worker) => html`<tr key=${worker.incarnation}><td><code>…${worker.incarnation.slice(-6)}</code>${worker.is_front ? " front" : ""}</td><td>${worker.host}:${worker.pid}</td><td>${worker.store}</td><td><span class=${worker.lease === "held" ? "" : "bad"}>${worker.lease}</span></td><td class="number">${worker.running}</td><td class="number">${worker.waiting}</td><td><${Ago} time=${worker.seen_at} /></td><td><${Ago} time=${worker.started_at} /></td></tr>`)}</tbody></table></div>` : null}
    ${figures.models.length ? html`<h2>Models</h2><div class="wide-table" tabindex="0" role="region" aria-label="Models"><table><thead><tr><th>Deployment</th><th>State</th><th class="number">Calls</th><th class="number">Failed</th><th class="number">As a fallback</th><th class="number">p50</th><th class="number">p90</th></tr></thead>
      <tbody>${figures.models.map((/** @type {any} */ model) => html`<tr key=${model.deployment}><td>${model.deployment}</td><td>${model.well ? html`<span class="s-succeeded">well</span>` : html`<span class="bad">${model.reason || "left alone"} <${Ago} time=${model.until} /></span>`}</td><td class="number">${model.calls}</td><td class="number">${model.failed}</td><td class="number">${model.fallbacks}</td><td class="number">${span(model.p50_seconds)}</td><td class="number">${span(model.p90_seconds)}</td></tr>`)}</tbody></table></div>` : null}
    ${figures.disk ? html`<p class="dim">The database has ${(figures.disk.store_bytes / 1e6).toFixed(1)} MB; ${(figures.disk.free_bytes / 1e9).toFixed(1)} GB of the disk are free.</p>` : null}`;
}
