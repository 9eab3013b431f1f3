// @ts-check
/** Channels and webhooks as configured: what came lately, what became of it, and replies that could not be sent. */
import { html } from "/ui/vendor/preact.js";
import { Ago, asked, Count, dollars, Failed, route, slow, Table, TaskLink, to, useData } from "/ui/lib.js";

const SHOWN = 100;
const SCANNED = 200;

/** What the log says of deliveries, the newest first. */
function useDeliveries() {
  const of = (/** @type {string} */ event_type, limit = SHOWN) => useData(`/events?${asked({ event_type, order: "desc", limit })}`, slow);
  const [came, failed, dropped, delayed, made] = [of("webhook.received"), of("webhook.failed"), of("reply.dropped"), of("reply.delayed"), of("task.accepted", SCANNED)];
  const unsigned = useData(`/events?${asked({ aggregate_id: "audit/keys", event_type: "audit.recorded", order: "desc", limit: SHOWN })}`, slow);
  const error = [came, failed, dropped, delayed, made, unsigned].find((one) => one.error)?.error;
  if (![came, failed, dropped, delayed, made, unsigned].every((one) => one.data)) return { error, items: null };
  const row = (/** @type {any} */ event, /** @type {any} */ more) => ({ key: event.seq, time: event.time, tasks: event.task_id ? [event.task_id] : [], bad: "", ...more });
  const ofChannel = (/** @type {any} */ event) => {
    const [, kind, name, sender] = /^(channel):([^:]+):(.*)$/.exec(event.payload.requested_by ?? "") ?? [];
    return kind ? [row(event, { from: `channel:${name}`, what: `a message of ${sender}` })] : [];
  };
  const ofStranger = (/** @type {any} */ event) => {
    const [from, edge, name] = /^(webhook|channel):(.*)$/.exec(event.payload.action === "credentials.refused" ? event.payload.caller?.edge : "") ?? [];
    if (!from) return [];
    const { reason, address, unrecorded_before: before } = event.payload.details ?? {};
    const remedy = reason?.includes("no source") ? "Correct the address at the sender, or add the source" : `Set the same secret at the sender and in [${edge === "webhook" ? "webhooks.sources" : "channels"}.${name}] of mesh.toml`;
    return [row(event, { from, what: `refused with 401${address ? `, from ${address}` : ""}${before ? `, and ${before} before` : ""}`, bad: `${reason ?? "The signature is wrong"}. ${remedy}.` })];
  };
  const items = [
    ...came.data.items.map((/** @type {any} */ event) => row(event, { from: sourceOf(event), what: event.payload.event ?? "a delivery", id: event.payload.delivery, tasks: event.payload.tasks ?? [] })),
    ...failed.data.items.map((/** @type {any} */ event) => row(event, { from: sourceOf(event), what: `rule ${event.payload.rule ?? "?"}`, id: event.payload.delivery, bad: event.payload.reason ?? "refused" })),
    ...made.data.items.flatMap(ofChannel),
    ...unsigned.data.items.flatMap(ofStranger),
    ...dropped.data.items.map((/** @type {any} */ event) => row(event, { from: `replies:${event.payload.scheme}`, what: "a reply was dropped", bad: event.payload.reason ?? "" })),
    ...delayed.data.items.map((/** @type {any} */ event) => row(event, { from: `replies:${event.payload.scheme}`, what: "a reply is sent again later", bad: event.payload.reason ?? "" })),
  ];
  return { error, items: items.sort((one, other) => other.key - one.key) };
}

/** @param {any} event */
const sourceOf = (event) => `webhook:${event.payload.source ?? event.aggregate_id?.split("/")[1] ?? "?"}`;

/** All that may deliver, as configured, by the names that `useDeliveries` gives what it delivered. */
function useSources() {
  const [webhooks, channels] = [useData("/webhooks", slow), useData("/channels", slow)];
  const named = [...(webhooks.data?.items ?? []), ...(channels.data?.items ?? [])].map((/** @type {any} */ one) => ({ ...one, from: one.requested_by ?? `push:${one.id}` }));
  return { error: webhooks.error ?? channels.error, sources: webhooks.data && channels.data ? named : null };
}

/** The view. */
export default function DeliveriesPage() {
  const from = route.value.query.get("from") ?? "";
  const { error, items } = useDeliveries();
  const { error: unlisted, sources } = useSources();
  if (!items || !sources) return html`<h1>Channels and webhooks</h1><${Failed} error=${error ?? unlisted} />${error ?? unlisted ? null : html`<p class="dim">Asking…</p>`}`;
  const onlyBad = route.value.query.has("bad");
  const shown = items.filter((one) => (!from || one.from === from) && (!onlyBad || one.bad)).slice(0, SHOWN);
  return html`<h1>Channels and webhooks</h1><${Failed} error=${error ?? unlisted} />
    ${sources.length || items.length ? html`<${Sources} sources=${sources} items=${items} from=${from} />` : html`<p class="empty">None is configured: <code>[webhooks.sources.NAME]</code> and <code>[channels.NAME]</code> of mesh.toml add one.</p>`}
    ${shown.length || from ? html`<h2>The last deliveries${onlyBad ? " with a problem" : ""}${from ? html` of ${from} <a href=${to("deliveries")}>Show all</a>` : ""}</h2>` : null}
    ${shown.length ? html`<${Table} label="Deliveries" heads=${["When", "From", "What", "Delivery", "Tasks", "Problem"]}>
        ${shown.map((one) => html`<tr key=${`${one.from} ${one.key}`}><td><${Ago} time=${one.time} /></td><td><a href=${to("deliveries", { from: one.from })}>${one.from}</a></td><td>${one.what}</td>
          <td>${one.id ? html`<code title=${one.id}>${one.id.slice(0, 18)}</code>` : ""}</td><td>${one.tasks.length ? one.tasks.map((/** @type {string} */ id) => html`<${TaskLink} key=${id} id=${id} /> `) : html`<span class="dim">none</span>`}</td><td class="bad texts">${one.bad}</td></tr>`)}<//>` : html`<p class="empty">Nothing was delivered lately.</p>`}`;
}

/** One line for each channel and source that is configured, and for others that were heard of. @param {{sources: any[], items: any[], from: string}} given */
function Sources({ sources, items, from }) {
  const known = new Set(sources.map((one) => one.from));
  const others = [...new Set(items.map((one) => one.from))].filter((name) => !known.has(name)).sort();
  return html`<${Table} label="Channels and sources" heads=${["Channel or source", "Kind", "Way in", "Makes", "Last", "#Lately", "#With a problem", "#Tasks"]}>
    ${[...sources, ...others.map((name) => ({ from: name }))].map((source) => {
      const name = source.from;
      const of = items.filter((one) => one.from === name);
      const tasks = of.reduce((sum, one) => sum + one.tasks.length, 0);
      const link = to("deliveries", { from: name });
      return html`<tr key=${name}><td><a href=${link} aria-current=${name === from ? "true" : undefined}>${name}</a>${source.tenant_id && source.tenant_id !== "default" ? html` <span class="tag">${source.tenant_id}</span>` : ""}</td><td>${source.kind ?? ""}</td><td><${WayIn} source=${source} /></td><td class="texts"><${Makes} source=${source} /></td>
        <td>${of.length ? html`<${Ago} time=${of[0].time} />` : html`<span class="dim">nothing lately</span>`}</td><td class="number"><${Count} value=${of.length} href=${link} /></td>
        <td class="number"><${Count} value=${of.filter((one) => one.bad).length} href=${to("deliveries", { from: name, bad: 1 })} /></td><td class="number"><${Count} value=${tasks} href=${name.startsWith("webhook:") ? to("tasks", { requested_by: name }) : link} /></td></tr>`;
    })}<//>`;
}

/** @param {{source: any}} given */
function WayIn({ source }) {
  if (!source.kind) return html`<span class="dim">${source.from.startsWith("replies:") ? "outgoing" : "not configured"}</span>`;
  if (source.kind === "push") return "outgoing";
  return html`${source.is_active ? "" : html`<span class="tag">inactive</span> `}${source.path ? html`<code>${source.path}</code> <span class=${source.proved_by === "nothing" ? "bad" : "dim"}>by ${source.proved_by}</span>` : ""} ${source.connected == null ? "" : html`<span class=${source.connected ? "s-succeeded" : "bad"}>${source.connected ? "connected" : "not connected"}</span>`}`;
}

/** What deliveries become: the rules of a webhook, the agent of a channel; of a push what it gets. @param {{source: any}} given */
function Makes({ source }) {
  if (source.pushes?.length) return source.pushes.map((/** @type {string} */ one) => (one === "*" ? "all outcomes" : one)).join(", ");
  if (source.kind && !source.tasks.length) return html`<span class="dim">events alone</span>`;
  return (source.tasks ?? []).map((/** @type {any} */ task, /** @type {number} */ at) => {
    const match = Object.entries(task.match).map(([path, patterns]) => `${path}=${patterns.join("|")}`).join(" ");
    const about = [task.budget_usd == null ? "" : `up to ${dollars(task.budget_usd)}`, task.reply === "none" ? "" : `reply as ${task.reply}`].filter(Boolean).join(", ");
    return html`<div key=${at}>${match ? `${match} → ` : ""}<a href=${to("tasks", task.agent_id ? { agent_id: task.agent_id } : { capability: task.capability })}>${task.agent_id ?? `best for ${task.capability}`}</a>${about ? html` <span class="dim">${about}</span>` : ""}</div>`;
  });
}
