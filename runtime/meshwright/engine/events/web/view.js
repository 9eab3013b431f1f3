// @ts-check
/** The event log, the newest first, as it grows. */
import { html } from "/ui/vendor/preact.js";
import { asked, Asking, Failed, recent, route, Shown, TaskLink, to, useData } from "/ui/lib.js";

export const roles = ["viewer"];

const SHOWN = 200;
/** Types that only programs read; a filter by type shows them. */
const NOISE = ["trace.spans", "audit.head"];
const FIELDS = [["event_type", "Type", "task.failed"], ["agent_id", "Agent", ""], ["task_id", "Task", ""], ["since", "Since", "24h"]];

/** The view. */
export default function EventsPage() {
  const wanted = Object.fromEntries(FIELDS.map(([name]) => [name, route.value.query.get(name) ?? ""]));
  const { data, error } = useData(`/events?${asked({ ...wanted, order: "desc", limit: SHOWN })}`);
  const items = (data?.items ?? []).filter((/** @type {any} */ event) => wanted.event_type || !NOISE.includes(event.event_type));
  const send = (/** @type {any} */ event) => {
    event.preventDefault();
    location.hash = to("events", Object.fromEntries([...new FormData(event.target)].map(([name, value]) => [name, String(value).trim()])));
  };
  return html`<h1>Events <span class="dim">${recent.value.length ? `${recent.value.length} since you came` : ""}</span></h1>
    <form class="bar" role="search" onSubmit=${send} key=${JSON.stringify(wanted)}>
      ${FIELDS.map(([name, title, example]) => html`<label key=${name}>${title} <input name=${name} defaultValue=${wanted[name]} placeholder=${example} size="14" /></label>`)}
      <button>Filter</button> ${Object.values(wanted).some(Boolean) ? html`<a href=${to("events")}>Show all</a>` : null}
    </form>
    <${Failed} error=${error} /><${Asking} of=${{ data, error }} />
    ${data ? html`<ol class="plain">${items.map((/** @type {any} */ event) => html`<li class="event" key=${event.seq}><details><summary>
        <time datetime=${event.time}>${new Date(event.time).toLocaleTimeString()}</time> <b>${event.event_type}</b> ${event.agent_id ?? ""}
      </summary><${Shown} value=${event.payload} /></details>${event.task_id ? html`<${TaskLink} id=${event.task_id} />` : null}</li>`)}</ol>` : null}
    ${data && items.length === 0 ? html`<p class="empty">No event agrees with that.</p>` : null}`;
}
