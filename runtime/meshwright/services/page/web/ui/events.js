// @ts-check
/** The event log, the newest first, as it grows. */
import { html } from "./vendor/preact.js";
import { asked, Failed, recent, route, Shown, TaskLink, to, useData } from "./lib.js";

const SHOWN = 200;

/** The view. */
export function EventsPage() {
  const query = route.value.query;
  const wanted = { event_type: query.get("event_type") ?? "", agent_id: query.get("agent_id") ?? "" };
  const { data, error } = useData(`/events?${asked({ ...wanted, order: "desc", limit: SHOWN })}`);
  const send = (/** @type {any} */ event) => {
    event.preventDefault();
    location.hash = to("events", Object.fromEntries([...new FormData(event.target)].map(([name, value]) => [name, String(value).trim()])));
  };
  return html`<h1>Events <span class="dim">${recent.value.length ? `${recent.value.length} since you came` : ""}</span></h1>
    <form class="bar" role="search" onSubmit=${send} key=${JSON.stringify(wanted)}>
      <label>Type <input name="event_type" defaultValue=${wanted.event_type} placeholder="task.failed" /></label>
      <label>Agent <input name="agent_id" defaultValue=${wanted.agent_id} /></label>
      <button>Filter</button> ${wanted.event_type || wanted.agent_id ? html`<a href=${to("events")}>Show all</a>` : null}
    </form>
    <${Failed} error=${error} />
    ${data ? html`<ol class="plain">${data.items.map((/** @type {any} */ event) => html`<li class="event" key=${event.seq}><details><summary>
        <time datetime=${event.time}>${new Date(event.time).toLocaleTimeString()}</time> <b>${event.event_type}</b> ${event.agent_id ?? ""}
      </summary><${Shown} value=${event.payload} /></details>${event.task_id ? html`<${TaskLink} id=${event.task_id} />` : null}</li>`)}</ol>` : null}
    ${data?.items.length === 0 ? html`<p class="empty">No event agrees with that.</p>` : null}`;
}
