// @ts-check
/** The mesh as a graph: callers, agents and models, the tasks between them, and events as they pass. */
import { html, signal, useEffect, useRef } from "./vendor/preact.js";
import { Count, listen, slow, Table, to, useData } from "./lib.js";

const CALLERS = "callers";
const MODELS = "models";
const WIDTH = 168;
const HEIGHT = 40;
const [GAP_X, GAP_Y] = [92, 18];
const TRAVEL_MS = 900;
const MOST_DOTS = 80;
const MOST_KNOWN = 5_000;
const MOST_NODES = 40; // beyond, only agents that did something lately are drawn
const ENDS = new Set(["succeeded", "failed", "cancelled", "timed_out"]);
/** The agents of tasks by their ids, as lists and events say. @type {Map<string, string>} */
const agentOf = new Map();

/** @param {string} task @param {string | null | undefined} agent */
function learn(task, agent) {
  if (!agent) return;
  if (agentOf.size >= MOST_KNOWN) agentOf.delete(/** @type {string} */ (agentOf.keys().next().value));
  agentOf.set(task, agent);
}

/** @typedef {{from: string, to: string, count: number, failed: number}} Edge */
/** Tasks are listed once: events and flows say what is new. */
const once = signal(0);

/** The edges that tasks of a list make, from the caller or the agent that delegated, with the flow of the last minutes. @param {any[]} tasks @param {any[]} flows @returns {Edge[]} */
export function edgesOf(tasks, flows) {
  /** @type {Map<string, Edge>} */
  const edges = new Map();
  for (const task of tasks) learn(task.task_id, task.agent_id);
  for (const task of tasks) {
    const from = task.parent_task_id ? agentOf.get(task.parent_task_id) : CALLERS;
    if (!from || !task.agent_id) continue;
    edges.set(`${from} ${task.agent_id}`, { from, to: task.agent_id, count: 0, failed: 0 });
  }
  for (const { source, target, count, failed } of flows) {
    const [from, end] = [source ?? CALLERS, target ?? MODELS];
    edges.set(`${from} ${end}`, { from, to: end, count, failed });
  }
  return [...edges.values()];
}

/** Where the nodes are: callers, then agents by how far below the callers they work, then models. @param {string[]} agents @param {ReturnType<typeof edgesOf>} edges */
export function placed(agents, edges) {
  /** @type {Map<string, number>} */
  const level = new Map([[CALLERS, 0]]);
  for (let round = 0; round < 3; round += 1)
    for (const { from, to: target } of edges) if (level.has(from) && !level.has(target)) level.set(target, /** @type {number} */ (level.get(from)) + 1);
  for (const agent of agents) level.set(agent, level.get(agent) ?? 1);
  const deepest = Math.max(...level.values());
  level.set(MODELS, deepest + 1);
  const columns = Array.from({ length: deepest + 2 }, (_, at) => [...level].filter(([, one]) => one === at).map(([name]) => name).sort());
  const rows = Math.max(...columns.map((column) => column.length));
  /** @type {Map<string, {x: number, y: number}>} */
  const places = new Map();
  columns.forEach((column, at) => column.forEach((name, row) => places.set(name, { x: 4 + at * (WIDTH + GAP_X), y: 4 + (row + (rows - column.length) / 2) * (HEIGHT + GAP_Y) })));
  return { places, width: 8 + columns.length * WIDTH + (columns.length - 1) * GAP_X, height: 8 + rows * (HEIGHT + GAP_Y) - GAP_Y };
}

/** The line of an edge and the place of its label, which is not behind a node; between agents of one column it bends to the right. @param {{x: number, y: number}} from @param {{x: number, y: number}} target */
function lineOf(from, target) {
  const [startX, startY] = [from.x + WIDTH, from.y + HEIGHT / 2];
  const isBeside = target.x <= from.x;
  const [endX, endY] = [isBeside ? target.x + WIDTH : target.x, target.y + HEIGHT / 2];
  const bend = isBeside ? GAP_X * 0.8 : (endX - startX) / 2;
  const near = isBeside ? endX + bend : endX - bend;
  const share = endX - startX > GAP_X ? 0.1 : 0.5; // a longer edge passes behind nodes
  const on = (/** @type {number[]} */ [a, b, c, d]) => (1 - share) ** 3 * a + 3 * (1 - share) ** 2 * share * b + 3 * (1 - share) * share ** 2 * c + share ** 3 * d;
  const middle = { x: on([startX, startX + bend, near, endX]), y: on([startY, startY, endY, endY]) };
  return { path: `M${startX} ${startY} C${startX + bend} ${startY} ${near} ${endY} ${endX} ${endY}`, middle };
}

/** @param {number} count @param {number} minutes */
function rateOf(count, minutes) {
  const rate = count / minutes;
  return rate >= 10 ? Math.round(rate).toLocaleString() : rate >= 1 || !rate ? rate.toFixed(rate ? 1 : 0) : rate.toFixed(1).replace("0.0", "< 0.1");
}

/** The agents as a graph. @param {{rows: any[]}} given */
export function Topology({ rows: all }) {
  const { data } = useData("/tasks?limit=500", once);
  const { data: flows } = useData("/figures/flows", slow);
  const minutes = flows?.minutes ?? 1;
  const svg = useRef(/** @type {any} */ (null));
  useEffect(() => flow(svg), []);
  const edges = edgesOf(data?.items ?? [], flows?.items ?? []);
  const named = new Set(edges.flatMap((edge) => [edge.from, edge.to]));
  const rows = all.length > MOST_NODES ? all.filter((row) => named.has(row.agent_id) || row.running || row.waiting || row.calls_today) : all;
  const agents = rows.map((row) => row.agent_id);
  const isDrawn = (/** @type {string} */ name) => name === CALLERS || name === MODELS || agents.includes(name);
  const known = edges.filter((edge) => isDrawn(edge.from) && isDrawn(edge.to));
  const { places, width, height } = placed(agents, known.filter((edge) => edge.to !== MODELS));
  const at = (/** @type {string} */ name) => /** @type {{x: number, y: number}} */ (places.get(name));
  const idle = rows.filter((row) => row.calls_today && !known.some((edge) => edge.from === row.agent_id && edge.to === MODELS)).map((row) => ({ from: row.agent_id, to: MODELS, count: 0, failed: 0 }));
  const drawn = [...known, ...idle].map((edge) => ({ ...edge, name: `${edge.from} ${edge.to}`, rate: `${rateOf(edge.count, minutes)}/min`, ...lineOf(at(edge.from), at(edge.to)) }));
  return html`<div class="wide-table" tabindex="0" role="region" aria-label="Topology">
    <svg ref=${svg} class="mesh" role="group" aria-label="Agents and the tasks between them" viewBox=${`0 0 ${width} ${height}`} width=${width} height=${height}>
      <g class="edges">${drawn.map((edge) => html`<path key=${edge.name} data-edge=${edge.name} d=${edge.path} style=${{ strokeWidth: `${Math.min(1 + Math.log2(1 + edge.count) / 2, 6)}px` }} class=${edge.failed ? "failing" : edge.count ? "flowing" : ""}><title>${`${edge.from} → ${edge.to}: ${edge.rate}`}</title></path>`)}</g>
      <g class="rates" aria-hidden="true">${drawn.filter((edge) => edge.count).map((edge) => html`<text key=${edge.name} x=${edge.middle.x} y=${edge.middle.y - 4} text-anchor="middle">${edge.rate}</text>`)}</g>
      <g class="dots"></g>
      <${Node} place=${at(CALLERS)} title="callers" href=${to("tasks")} line="people and programs" />
      ${rows.map((row) => html`<${Node} key=${row.agent_id} place=${at(row.agent_id)} title=${row.agent_id} href=${to(`agents/${encodeURIComponent(row.agent_id)}`)} line=${busy(row)} state=${row.info?.status === "online" && row.info.healthy ? "good" : "poor"} />`)}
      <${Node} place=${at(MODELS)} title="models" href=${to("models")} line=${`${rows.reduce((sum, row) => sum + (row.calls_today ?? 0), 0)} calls today`} />
    </svg></div>
    ${rows.length < all.length ? html`<p class="dim">${all.length - rows.length} agents did nothing lately, and are not drawn.</p>` : null}
    ${known.length ? html`<details><summary>The same as a table</summary><${Table} label="Tasks between agents" heads=${["From", "To", "#A minute", `#In ${minutes} minutes`, "#Failed"]}>${[...known].sort((one, other) => other.count - one.count).map((edge) => html`<tr key=${`${edge.from} ${edge.to}`}><td>${edge.from}</td><td>${edge.to}</td><td class="number">${rateOf(edge.count, minutes)}</td><td class="number"><${Count} value=${edge.count} href=${edge.to === MODELS ? to("models") : to("tasks", { agent_id: edge.to })} /></td><td class=${`number ${edge.failed ? "bad" : "dim"}`}>${edge.failed}</td></tr>`)}<//></details>` : null}`;
}

/** @param {any} row */
const busy = (row) => [`${row.running ?? 0}${row.slots ? ` of ${row.slots}` : ""} running`, row.waiting ? `${row.waiting} waiting` : "", row.parked ? `${row.parked} parked` : ""].filter(Boolean).join(", ");

/** @param {{place: {x: number, y: number}, title: string, href: string, line: string, state?: string}} given */
const Node = ({ place, title, href, line: words, state = "" }) =>
  html`<a href=${href} aria-label=${`${title}: ${words}`}><rect x=${place.x} y=${place.y} width=${WIDTH} height=${HEIGHT} rx="6" class=${state} /><text x=${place.x + 10} y=${place.y + 17}>${title.length > 22 ? `${title.slice(0, 21)}…` : title}</text><text x=${place.x + 10} y=${place.y + 32} class="words">${words.length > 26 ? `${words.slice(0, 25)}…` : words}</text></a>`;

/** The edge that an event passes, and whether it goes back along it; null for one that passes none. @param {any} event */
export function passage(event) {
  const [family, what] = event.event_type.split(".");
  const { payload } = event;
  if (event.event_type === "task.accepted") {
    learn(event.task_id, payload.dispatched_to);
    const from = payload.parent_task_id ? agentOf.get(payload.parent_task_id) : CALLERS;
    learn(`from ${event.task_id}`, from);
    return from && payload.dispatched_to ? { edge: `${from} ${payload.dispatched_to}`, kind: "request", isBack: false } : null;
  }
  if (family === "task" && ENDS.has(what)) {
    const agent = event.agent_id ?? agentOf.get(event.task_id);
    return agent ? { edge: `${agentOf.get(`from ${event.task_id}`) || CALLERS} ${agent}`, kind: what === "succeeded" ? "good" : "poor", isBack: true } : null;
  }
  if (event.event_type === "model.called" && event.agent_id) return { edge: `${event.agent_id} ${MODELS}`, kind: payload.outcome && payload.outcome !== "ok" ? "poor" : "request", isBack: false };
  return null;
}

/** Has a dot pass for each event, all moved once a frame; without motion the edge lights up. @param {{current: any}} svg */
function flow(svg) {
  /** @type {{dot: any, path: any, length: number, began: number, isBack: boolean}[]} */
  let moving = [];
  /** @type {any[]} */
  let come = [];
  let frame = 0;
  const isStill = matchMedia("(prefers-reduced-motion: reduce)");
  const pathOf = (/** @type {string} */ edge) => svg.current?.querySelector(`[data-edge="${CSS.escape(edge)}"]`);
  const light = (/** @type {any} */ path) => {
    path.classList.add("hot");
    setTimeout(() => path.classList.remove("hot"), TRAVEL_MS);
  };
  const begin = (/** @type {any} */ passing, /** @type {number} */ now) => {
    const path = pathOf(passing.edge);
    if (!path) return;
    if (isStill.matches || moving.length >= MOST_DOTS) return light(path);
    const dot = document.createElementNS("http://www.w3.org/2000/svg", "circle");
    dot.setAttribute("r", "4");
    dot.setAttribute("class", passing.kind);
    svg.current.querySelector(".dots").append(dot);
    moving.push({ dot, path, length: path.getTotalLength(), began: now, isBack: passing.isBack });
  };
  const paint = (/** @type {number} */ now) => {
    frame = 0;
    for (const passing of come) begin(passing, now);
    come = [];
    moving = moving.filter(({ dot, path, length, began, isBack }) => {
      const share = Math.max(0, Math.min(1, (now - began) / TRAVEL_MS));
      if (share >= 1 || !path.isConnected) {
        dot.remove();
        return false;
      }
      const point = path.getPointAtLength(length * (isBack ? 1 - share : share));
      dot.setAttribute("cx", point.x);
      dot.setAttribute("cy", point.y);
      return true;
    });
    if (moving.length) frame = requestAnimationFrame(paint);
  };
  const end = listen((event) => {
    const passing = passage(event);
    if (!passing || document.hidden) return;
    come.push(passing);
    frame ||= requestAnimationFrame(paint);
  });
  return () => {
    end();
    cancelAnimationFrame(frame);
  };
}
