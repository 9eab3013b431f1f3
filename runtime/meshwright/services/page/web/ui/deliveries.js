// @ts-check
/** Channels and webhooks: what came lately, what became of it, and replies that could not be sent. */
import { html } from "./vendor/preact.js";
import { Ago, asked, Count, Failed, route, slow, Table, TaskLink, to, useData } from "./lib.js";

const SHOWN = 100;
const SCANNED = 200;

/** What the log says of deliveries, the newest first. */
function useDeliveries() {
  const of = (/** @type {string} */ event_type, limit = SHOWN) => useData(`/events?${asked({ event_type, order: "desc", limit })}`, slow);
  const [came, failed, dropped, delayed, made] = [of("webhook.received"), of("webhook.failed"), of("reply.dropped"), of("reply.delayed"), of("task.accepted", SCANNED)];
  const error = [came, failed, dropped, delayed, made].find((one) => one.error)?.error;
  if (![came, failed, dropped, delayed, made].every((one) => one.data)) return { error, items: null };
  const row = (/** @type {any} */ event, /** @type {any} */ more) => ({ key: event.seq, time: event.time, tasks: event.task_id ? [event.task_id] : [], bad: "", ...more });
  const ofChannel = (/** @type {any} */ event) => {
    const [, kind, name, sender] = /^(channel):([^:]+):(.*)$/.exec(event.payload.requested_by ?? "") ?? [];
    return kind ? [row(event, { from: `channel:${name}`, what: `a message of ${sender}` })] : [];
  };
  const items = [
    ...came.data.items.map((/** @type {any} */ event) => row(event, { from: sourceOf(event), what: event.payload.event ?? "a delivery", id: event.payload.delivery, tasks: event.payload.tasks ?? [] })),
    ...failed.data.items.map((/** @type {any} */ event) => row(event, { from: sourceOf(event), what: `rule ${event.payload.rule ?? "?"}`, id: event.payload.delivery, bad: event.payload.reason ?? "refused" })),
    ...made.data.items.flatMap(ofChannel),
    ...dropped.data.items.map((/** @type {any} */ event) => row(event, { from: `replies:${event.payload.scheme}`, what: "a reply was dropped", bad: event.payload.reason ?? "" })),
    ...delayed.data.items.map((/** @type {any} */ event) => row(event, { from: `replies:${event.payload.scheme}`, what: "a reply is sent again later", bad: event.payload.reason ?? "" })),
  ];
  return { error, items: items.sort((one, other) => other.key - one.key) };
}

/** @param {any} event */
const sourceOf = (event) => `webhook:${event.payload.source ?? event.aggregate_id?.split("/")[1] ?? "?"}`;

/** The view. */
export function DeliveriesPage() {
  const from = route.value.query.get("from") ?? "";
  const { error, items } = useDeliveries();
  if (!items) return html`<h1>Channels and webhooks</h1><${Failed} error=${error} />${error ? null : html`<p class="dim">Asking…</p>`}`;
  const shown = items.filter((one) => !from || one.from === from).slice(0, SHOWN);
  return html`<h1>Channels and webhooks</h1><${Failed} error=${error} />
    ${items.length === 0 ? html`<p class="empty">Nothing was delivered lately. <code>[webhooks]</code> and <code>[channels]</code> of mesh.toml say what may deliver.</p>` : html`<${Sources} items=${items} from=${from} />
      <h2>The last deliveries${from ? html` of ${from} <a href=${to("deliveries")}>Show all</a>` : ""}</h2>
      <${Table} label="Deliveries" heads=${["When", "From", "What", "Delivery", "Tasks", "Problem"]}>
        ${shown.map((one) => html`<tr key=${`${one.from} ${one.key}`}><td><${Ago} time=${one.time} /></td><td><a href=${to("deliveries", { from: one.from })}>${one.from}</a></td><td>${one.what}</td>
          <td>${one.id ? html`<code title=${one.id}>${one.id.slice(0, 18)}</code>` : ""}</td><td>${one.tasks.length ? one.tasks.map((/** @type {string} */ id) => html`<${TaskLink} key=${id} id=${id} /> `) : html`<span class="dim">none</span>`}</td><td class="reason bad" title=${one.bad}>${one.bad}</td></tr>`)}<//>`}`;
}

/** One line for each channel and source that was heard of. @param {{items: any[], from: string}} given */
function Sources({ items, from }) {
  const names = [...new Set(items.map((one) => one.from))].sort();
  return html`<${Table} label="Channels and sources" heads=${["Channel or source", "Last", "#Lately", "#With a problem", "#Tasks"]}>
    ${names.map((name) => {
      const of = items.filter((one) => one.from === name);
      const tasks = of.reduce((sum, one) => sum + one.tasks.length, 0);
      const link = to("deliveries", { from: name });
      return html`<tr key=${name}><td><a href=${link} aria-current=${name === from ? "true" : undefined}>${name}</a></td><td><${Ago} time=${of[0].time} /></td><td class="number"><${Count} value=${of.length} href=${link} /></td>
        <td class="number"><${Count} value=${of.filter((one) => one.bad).length} href=${link} /></td><td class="number"><${Count} value=${tasks} href=${name.startsWith("webhook:") ? to("tasks", { requested_by: name }) : link} /></td></tr>`;
    })}<//>`;
}
