// @ts-check
/** The mesh: how many agents and models are well, its workers with their leases; and what passes between agents. */
import { html } from "./vendor/preact.js";
import { FindingsList } from "./health.js";
import { Ago, Asking, Count, Failed, route, slow, Table, to, useData } from "./lib.js";
import { Topology } from "./topology.js";

const TABS = [["", "Workers"], ["topology", "Topology"]];

/** The view. */
export default function MeshPage() {
  const { data: figures, error } = useData("/figures", slow);
  const { data: agents } = useData("/agents", slow);
  const tab = route.value.id;
  const head = html`<h1>Mesh</h1><nav class="bar" aria-label="Views of the mesh">${TABS.map(([id, title]) => html`<a key=${id} href=${to(id ? `mesh/${id}` : "mesh")} aria-current=${id === tab ? "page" : undefined}>${title}</a>`)}</nav><${Failed} error=${error} />`;
  if (!figures || !agents) return html`${head}<${Asking} of=${{ error }} />`;
  const named = agents.items.filter((/** @type {any} */ agent) => agent.kind !== "system");
  return html`${head}${tab === "topology" ? html`<${Topology} rows=${rowsOf(figures, named)} />` : html`<${Overview} figures=${figures} agents=${named} />`}`;
}

/** Figures of each agent with its presence. @param {any} figures @param {any[]} agents */
function rowsOf(figures, agents) {
  const info = new Map(agents.map((agent) => [agent.agent_id, agent]));
  const counted = new Map(figures.agents.map((/** @type {any} */ agent) => [agent.agent_id, agent]));
  return [...new Set([...info.keys(), ...counted.keys()])].sort().map((name) => ({ agent_id: name, ...counted.get(name), info: info.get(name) }));
}

/** @param {{figures: any, agents: any[]}} given */
function Overview({ figures, agents }) {
  const poor = new Set(figures.agents.filter((/** @type {any} */ agent) => agent.state !== "well").map((/** @type {any} */ agent) => agent.agent_id));
  const well = agents.filter((agent) => agent.status === "online" && agent.healthy && !poor.has(agent.agent_id)).length;
  const answering = figures.models.filter((/** @type {any} */ model) => model.well).length;
  const sum = (/** @type {string} */ name) => figures.agents.reduce((/** @type {number} */ all, /** @type {any} */ agent) => all + (agent[name] ?? 0), 0);
  const cards = [
    ["agents well", well, `of ${agents.length}`, to("agents"), well < agents.length],
    ...(figures.models.length ? [["models well", answering, `of ${figures.models.length}`, to("models"), answering < figures.models.length]] : []),
    ["running", sum("running"), `of ${sum("slots")} slots`, to("tasks", { status: "running" }), false],
    ["queue", sum("waiting"), "wait for a slot", to("tasks", { status: "dispatched" }), false],
  ];
  return html`<${FindingsList} figures=${figures} /><ul class="cards">${cards.map(([name, value, more, href, isBad]) => html`<li key=${name}><a href=${href}><span class="dim">${name}</span> <b class=${isBad ? "bad" : ""}>${value.toLocaleString()}</b> <span class="dim">${more}</span></a></li>`)}</ul>
    ${figures.workers.length ? html`<h2>Workers</h2><${Workers} workers=${figures.workers} />` : null}
    ${figures.disk ? html`<p class="dim">The database has ${(figures.disk.store_bytes / 1e6).toFixed(1)} MB; ${(figures.disk.free_bytes / 1e9).toFixed(1)} GB of the disk are free.</p>` : null}`;
}

/** @param {{workers: any[]}} given */
const Workers = ({ workers }) =>
  html`<${Table} label="Workers" heads=${["Worker", "Host", "Store", "Lease", "#Running", "#Slots", "#Waiting", "Seen", "Since"]}>${workers.map((worker) => html`<tr key=${worker.incarnation}>
    <td><code title=${worker.incarnation}>…${worker.incarnation.slice(-6)}</code>${worker.is_front ? " front" : ""}${worker.apps.length ? html`<br /><span class="dim">${worker.apps.join(", ")}</span>` : ""}</td><td>${worker.host}:${worker.pid}</td><td>${worker.store}</td>
    <td><span class=${worker.lease === "held" ? "s-succeeded" : "bad"}>${worker.lease}</span></td>
    <td class="number"><${Count} value=${worker.running} href=${to("tasks", { status: "running" })} /></td><td class="number">${Object.values(worker.agents).reduce((/** @type {number} */ sum, /** @type {any} */ slots) => sum + slots, 0)}</td><td class="number"><${Count} value=${worker.waiting} href=${to("tasks", { status: "dispatched" })} /></td>
    <td><${Ago} time=${worker.seen_at} /></td><td><${Ago} time=${worker.started_at} /></td></tr>`)}<//>`;

