// @ts-check
/** Experiments: variants on live tasks with what is known of each, and evaluations with their figures. */
import { html } from "/ui/vendor/preact.js";
import { ask } from "/ui/dialog.js";
import { Ago, Asking, call, Count, dollars, Failed, may, route, slow, Status, Table, TaskLink, to, useData } from "/ui/lib.js";

/** The metrics of which less is better. */
const LESS = new Set(["retries", "model_calls", "tokens", "cost_usd", "duration_seconds", "approvals_denied"]);
const SHARES = new Set(["success"]);

/** The view: all of them, one experiment, or one evaluation. */
export default function ExperimentsPage() {
  const { id, query } = route.value;
  if (!id) return html`<${Experiments} /><${Evaluations} />`;
  return query.has("evaluation") ? html`<${Evaluation} id=${id} />` : html`<${Experiment} id=${id} />`;
}

/** @param {number | null | undefined} value @param {string} [metric] */
const shown = (value, metric = "") => (value == null ? "" : SHARES.has(metric) ? `${(value * 100).toFixed(1)} %` : metric === "cost_usd" ? dollars(value) : String(Number(value.toPrecision(3))));
/** @param {number | null | undefined} value */
const signed = (value) => (value != null && value > 0 ? "+" : "");

function Experiments() {
  const { data, error } = useData("/v1/experiments?limit=500", slow);
  return html`<h1>Experiments</h1><${Failed} error=${error} /><${Asking} of=${{ data, error }} />
    ${data?.items.length === 0 ? html`<p class="empty">There is no experiment: <code>mesh experiments create FILE.json</code> makes one.</p>` : null}
    ${data?.items.length ? html`<${Table} label="Experiments" heads=${["Experiment", "State", "Agent", "#Variants", "Metric", "Guard", "Runs over", "Begun", "By"]}>
      ${data.items.map((/** @type {any} */ one) => html`<tr key=${one.experiment_id}><td><a href=${to(`experiments/${one.experiment_id}`)}>${one.name}</a></td><td><${State} one=${one} /></td>
        <td><a href=${to("tasks", { agent_id: one.agent_id })}>${one.agent_id}</a></td><td class="number"><${Count} value=${one.variants.length} href=${to(`experiments/${one.experiment_id}`)} /></td><td>${one.metric}</td><td>${guarded(one.guard)}</td><td>${one.runs_over ?? ""}</td>
        <td><${Ago} time=${one.started_at} /></td><td>${one.created_by}</td></tr>`)}<//>` : null}`;
}

/** @param {{one: any}} given */
const State = ({ one }) => html`<span class=${one.status === "running" ? "s-running" : one.action ? "bad" : "dim"} title=${one.reason ?? ""}>${one.status}${one.action ? " by its guard" : ""}</span>`;
/** @param {any} guard */
const guarded = (guard) => (guard ? `${guard.action === "rollback" ? "rolls back" : "stops"} where ${guard.metric} is ${guard.bound == null ? `worse by ${shown(guard.worse_by, guard.metric)}` : `beyond ${shown(guard.bound, guard.metric)}`}` : "");
/** What a variant changes. @param {any} variant */
const changes = (variant) => Object.entries(variant).filter(([name, value]) => !["name", "weight"].includes(name) && value != null && !(typeof value === "object" && !Object.keys(value).length)).map(([name, value]) => `${name.replace("_", " ")} ${typeof value === "object" ? JSON.stringify(value) : value}`).join(", ");

/** @param {{id: string}} given */
function Experiment({ id }) {
  const path = `/v1/experiments/${encodeURIComponent(id)}`;
  const { data, error } = useData(`${path}/results`, slow);
  if (!data) return html`<h1>Experiment</h1><${Failed} error=${error} /><${Asking} of=${{ error }} />`;
  const { experiment: one, variants, figures } = data;
  const stop = () =>
    ask({
      title: `Stop ${one.name}?`,
      text: "No further task gets a variant. Those that have one end with it, and count. It cannot be begun again.",
      yes: "Stop it",
      isDanger: true,
      done: "The experiment is stopped",
      work: () => call("POST", `${path}/stop`),
    });
  const run = () =>
    ask({
      title: `Run ${one.name} on live tasks?`,
      text: `Each new task of ${one.agent_id} gets one of ${one.variants.length} variants, until you stop it${one.guard ? " or its guard does" : ""}.`,
      yes: "Run it",
      done: "Live tasks get variants from now on",
      work: () => call("POST", `${path}/run`, {}),
    });
  const of = (/** @type {any} */ result) => one.variants.find((/** @type {any} */ spec) => spec.name === result.variant);
  return html`<h1>Experiment ${one.name} <${State} one=${one} /></h1><${Failed} error=${error} />
    <dl class="facts"><dt>agent</dt><dd><a href=${to("tasks", { agent_id: one.agent_id })}>${one.agent_id}</a></dd>
      <dt>looks for</dt><dd>${one.minimum_difference == null ? "" : `${shown(one.minimum_difference, one.metric)} of `}${one.metric}, by ${one.unit}</dd>
      ${one.guard ? html`<dt>guard</dt><dd>${guarded(one.guard)}</dd>` : null}
      <dt>made</dt><dd>by ${one.created_by}, <${Ago} time=${one.created_at} />${one.started_at ? html`; begun <${Ago} time=${one.started_at} />` : "; not begun"}</dd>
      ${one.stopped_at ? html`<dt>stopped</dt><dd>by ${one.stopped_by ?? "its guard"}, <${Ago} time=${one.stopped_at} />${one.reason ? `: ${one.reason}` : ""}</dd>` : null}</dl>
    ${may("operator") ? html`<p class="bar">${one.status === "created" ? html`<button type="button" class="yes" onClick=${run}>Run on live tasks…</button>` : null}${one.status === "stopped" ? null : html`<button type="button" class="no" onClick=${stop}>Stop…</button>`}</p>` : null}
    <h2>Variants</h2><${Table} label="Variants" heads=${["Variant", "Changes", "#Weight", "#Ended", "#Open", "#Cost", "Verdict"]}>
      ${variants.map((/** @type {any} */ result, /** @type {number} */ at) => html`<tr key=${result.variant}><td><b>${result.variant}</b>${at ? "" : html` <span class="tag">as before</span>`}</td><td class="texts">${changes(of(result)) || html`<span class="dim">nothing</span>`}</td><td class="number">${of(result).weight}</td>
        <td class="number">${result.ended}</td><td class="number">${result.open}</td><td class="number">${dollars(result.cost_usd)}${result.unpriced ? html` <span class="dim">${result.unpriced} without a price</span>` : ""}</td>
        <td class="texts">${at === 0 ? "" : result.verdict ? html`<span class=${result.verdict === "better" ? "s-succeeded" : result.verdict === "worse" ? "bad" : ""}>${result.verdict}</span>` : html`<span class="dim">not sure yet${result.missing == null ? "" : `: ${result.missing} more ${one.unit}s`}</span>`}</td></tr>`)}<//>
    ${figures.length ? html`<h2>Figures</h2><p class="dim">Intervals of 95 %. The p-values hold however often you look.</p>
      <${Table} label="Figures" heads=${["Metric", "Variant", `#${one.unit}s`, "#Mean", "Interval", "#Difference", "Interval of it", "#p"]}>
      ${figures.map((/** @type {any} */ figure) => html`<tr key=${`${figure.metric} ${figure.variant}`}><td>${figure.metric.replaceAll("_", " ")}</td><td>${figure.variant}</td><td class="number">${figure.count}</td><td class="number">${shown(figure.mean, figure.metric)}</td><td class="line">${shown(figure.low, figure.metric)} to ${shown(figure.high, figure.metric)}</td>
        <td class=${`number ${isSure(figure) ? (isGood(figure) ? "s-succeeded" : "bad") : ""}`}>${signed(figure.difference)}${shown(figure.difference, figure.metric)}</td><td class="line">${figure.difference_low == null ? "" : `${shown(figure.difference_low, figure.metric)} to ${shown(figure.difference_high, figure.metric)}`}</td><td class="number">${figure.p_value == null ? "" : figure.p_value < 0.001 ? "< 0.001" : figure.p_value.toFixed(3)}</td></tr>`)}<//>` : html`<p class="empty">No task with a variant has ended yet.</p>`}`;
}

/** @param {any} figure */
const isSure = (figure) => figure.difference_low != null && (figure.difference_low > 0 || figure.difference_high < 0);
/** @param {any} figure */
const isGood = (figure) => figure.difference > 0 !== LESS.has(figure.metric);

function Evaluations() {
  const { data, error } = useData("/v1/evaluations?limit=200", slow);
  return html`<h2>Evaluations</h2><${Failed} error=${error} /><${Asking} of=${{ data, error }} />
    ${data?.items.length === 0 ? html`<p class="empty">There is no evaluation: <code>mesh evaluate FILE.jsonl --agent AGENT</code> makes one.</p>` : null}
    ${data?.items.length ? html`<${Table} label="Evaluations" heads=${["Evaluation", "State", "#Items", "#Done", "#Failed", "#Cost", "By", "When"]}>
      ${data.items.map((/** @type {any} */ one) => {
        const link = to(`experiments/${one.evaluation_id}`, { evaluation: 1 });
        return html`<tr key=${one.evaluation_id}><td><a href=${link}>${one.name || one.evaluation_id}</a></td><td><${Status} status=${one.status} /></td><td class="number"><${Count} value=${one.items} href=${link} /></td><td class="number"><${Count} value=${one.done} href=${link} /></td><td class="number"><${Count} value=${one.failed} href=${link} /></td><td class="number">${dollars(one.cost_usd)}</td><td>${one.requested_by}</td><td><${Ago} time=${one.created_at} /></td></tr>`;
      })}<//>` : null}`;
}

/** @param {{id: string}} given */
function Evaluation({ id }) {
  const path = `/v1/evaluations/${encodeURIComponent(id)}`;
  const { data, error } = useData(path, slow);
  const { data: items } = useData(`${path}/items?limit=100`, slow);
  if (!data) return html`<h1>Evaluation</h1><${Failed} error=${error} /><${Asking} of=${{ error }} />`;
  return html`<h1>Evaluation ${data.name} <${Status} status=${data.status} /></h1><${Failed} error=${error} />
    <p>${data.done} of ${data.items} items are done, ${data.failed} without an answer; ${dollars(data.cost_usd)}${data.agent_id ? html`, by <a href=${to("tasks", { agent_id: data.agent_id })}>${data.agent_id}</a>` : ""}.</p>
    ${data.warnings.map((/** @type {string} */ text) => html`<p class="bad" key=${text}>${text}</p>`)}
    ${data.figures.length ? html`<${Table} label="Figures" heads=${["Figure", "#Mean", "#Lowest", "#Highest", "#Of", "#Missing", "#Kappa with people"]}>${data.figures.map((/** @type {any} */ figure) => html`<tr key=${figure.name}><td>${figure.name}</td><td class="number"><b>${shown(figure.mean)}</b></td><td class="number">${shown(figure.lowest)}</td><td class="number">${shown(figure.highest)}</td><td class="number">${figure.count}</td><td class="number">${figure.missing || ""}</td><td class="number">${shown(figure.kappa)}</td></tr>`)}<//>` : null}
    ${items?.items.length ? html`<h2>Items</h2><${Table} label="Items" heads=${["#No", "State", "Task", "Request", "Answer"]}>${items.items.map((/** @type {any} */ item) => html`<tr key=${item.number}><td class="number">${item.number}</td><td><${Status} status=${item.status} /></td><td>${item.task_id ? html`<${TaskLink} id=${item.task_id} />` : ""}</td><td class="reason" title=${text(item.texts?.input)}>${text(item.texts?.input)}</td><td class="reason" title=${item.texts?.output ?? ""}>${item.texts?.output ?? ""}</td></tr>`)}<//>${items.cursor ? html`<p class="dim">The first 100 are shown.</p>` : null}` : null}`;
}

/** @param {any} value */
const text = (value) => (value == null ? "" : typeof value === "string" ? value : JSON.stringify(value));
