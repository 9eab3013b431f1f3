// @ts-check
/** The event log, the newest first, as it grows. */
import { html } from "/ui/vendor/preact.js";
import { asked, Asking, Failed, isWide, recent, route, Shown, TaskLink, to, useData } from "/ui/lib.js";
import { Text } from "/ui/unseen.js";

const SHOWN = 200;
/** Types that only programs read; a filter by type shows them. */
const NOISE = ["trace.spans", "audit.head"];
const FIELDS = [["event_type", "Type", "task.failed"], ["agent_id", "Agent", ""], ["task_id", "Task", ""], ["since", "Since", "24h"], ["until", "Until", "1h"], ["deployment", "Deployment", ""], ["failed_at", "Failed at", ""]];
const BAD = /\.(failed|dead_lettered|timed_out|exceeded|refused)$/;
const MOST_TYPES = 12;

/** The view. */
export default function EventsPage() {
  const wanted = Object.fromEntries(FIELDS.map(([name]) => [name, route.value.query.get(name) ?? ""]));
  const { data, error } = useData(`/events?${asked({ ...wanted, order: "desc", limit: SHOWN, lines: true })}`);
  const logged = (data?.items ?? []).map((/** @type {any} */ event, /** @type {number} */ at) => ({ ...event, line: data.lines[at] })).filter((/** @type {any} */ event) => wanted.event_type || !NOISE.includes(event.event_type));
  const items = wanted.event_type || wanted.task_id ? logged : logged.filter((/** @type {any} */ event) => !data.tries.includes(event.seq));
  const tries = (logged.length - items.length) / 3; // each is an end of a wait, a resume and a wait
  const types = [...new Set(items.map((/** @type {any} */ event) => event.event_type))].slice(0, MOST_TYPES).sort();
  const send = (/** @type {any} */ event) => {
    event.preventDefault();
    location.hash = to("events", Object.fromEntries([...new FormData(event.target)].map(([name, value]) => [name, String(value).trim()])));
  };
  return html`<h1>Events <span class="dim">${recent.value.length ? `${recent.value.length} since you came` : ""}</span></h1>
    <details class="filters" key=${JSON.stringify(wanted)} open=${isWide}><summary>Filters <span class="dim">${Object.values(wanted).filter(Boolean).join(", ")}</span></summary><form class="bar" role="search" onSubmit=${send}>
      ${FIELDS.map(([name, title, example]) => html`<label key=${name}>${title} <input name=${name} defaultValue=${wanted[name]} placeholder=${example} size=${name === "event_type" ? 18 : 10} /></label>`)}
      <button>Filter</button> ${Object.values(wanted).some(Boolean) ? html`<a href=${to("events")}>Show all</a>` : null}
    </form></details>
    <${Failed} error=${error} /><${Asking} of=${{ data, error }} />
    ${types.length ? html`<nav class="bar kinds" aria-label="Types">${types.map((type) => html`<a key=${type} href=${to("events", { ...wanted, event_type: type === wanted.event_type ? "" : type })} aria-current=${type === wanted.event_type ? "true" : undefined}>${type}</a>`)}</nav>` : null}
    ${data ? html`<ol class="plain log">${items.map((/** @type {any} */ event) => html`<${Row} key=${event.seq} event=${event} wanted=${wanted} />`)}</ol>` : null}
    ${tries ? html`<p class="dim">${tries} ${tries === 1 ? "try" : "tries"} of tasks that went on waiting at the same step ${tries === 1 ? "is" : "are"} left out; the filter <a href=${to("events", { ...wanted, event_type: "task.resumed" })}>task.resumed</a>, or that of a task, shows them.</p>` : null}
    ${data && items.length === 0 ? html`<p class="empty">No event matches this filter.</p>` : null}`;
}

/** An event in the words of `mesh events`; it opens its payload. @param {{event: any, wanted: Record<string, string>}} given */
const Row = ({ event, wanted }) => html`<li class="event"><details><summary>
    <time datetime=${event.time} title=${new Date(event.time).toLocaleString()}>${new Date(event.time).toLocaleTimeString()}</time>
    <b class=${BAD.test(event.event_type) ? "bad" : undefined}>${event.event_type}</b> <span class="text"><${Text} value=${event.line} /></span>
  </summary><${Shown} value=${event.payload} /></details>
  <span class="of">${event.agent_id ? html`<a href=${to("events", { ...wanted, agent_id: event.agent_id })}>${event.agent_id}</a> ` : null}${event.task_id ? html`<${TaskLink} id=${event.task_id} />` : null}</span></li>`;
