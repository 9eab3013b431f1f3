// @ts-check
/** What agents remember: where it is from, how far it is trusted, and what people change about it. */
import { html, useState } from "/ui/vendor/preact.js";
import { ask } from "/ui/dialog.js";
import { act, Ago, asked, Asking, call, Failed, may, route, TaskLink, to, useData } from "/ui/lib.js";

const STATES = ["shown", "quarantined", "active", "superseded", "forgotten", "all"];
const FIELDS = [["words", "Words"], ["agent_id", "Agent"], ["subject", "Subject"]];

/** The view. */
export default function MemoryPage() {
  const query = route.value.query;
  const wanted = Object.fromEntries(["status", ...FIELDS.map(([name]) => name)].map((name) => [name, query.get(name) ?? ""]));
  const { words, ...others } = wanted;
  const isFiltered = Object.entries(wanted).some(([name, value]) => value && !(name === "status" && value === "shown"));
  const { data, error } = useData(`/memories?${asked({ ...others, contains: words, limit: 100 })}`);
  const send = (/** @type {any} */ event) => {
    event.preventDefault();
    location.hash = to("memory", Object.fromEntries([...new FormData(event.target)].map(([name, value]) => [name, String(value).trim()])));
  };
  return html`<h1>Memory</h1>
    <form class="bar" role="search" onSubmit=${send} key=${JSON.stringify(wanted)}>
      <label>State <select name="status" onChange=${(/** @type {any} */ event) => event.target.form.requestSubmit()}>${STATES.map((state) => html`<option key=${state} value=${state} selected=${state === (wanted.status || "shown")}>${state === "shown" ? "active and quarantined" : state}</option>`)}</select></label>
      ${FIELDS.map(([name, title]) => html`<label key=${name}>${title} <input name=${name} defaultValue=${wanted[name]} size="12" /></label>`)}
      <button>Filter</button>
    </form>
    <${Failed} error=${error} /><${Asking} of=${{ data, error }} />
    ${data?.items.length === 0 ? html`<p class="empty">${isFiltered ? "Nothing is remembered that agrees with that." : html`Nothing is remembered. Agents remember by <code>run.remember</code>.`}</p>` : null}
    ${(data?.items ?? []).map((/** @type {any} */ memory) => html`<${Memory} key=${memory.memory_id} memory=${memory} />`)}
    ${data?.cursor ? html`<p class="dim">The newest 100 are shown: filter for others.</p>` : null}`;
}

/** @param {{memory: any}} given */
function Memory({ memory }) {
  const [text, setText] = useState(/** @type {string | null} */ (null));
  const [was, setWas] = useState("");
  const correct = () => { setText(memory.text); setWas(memory.text); };
  const path = `/memories/${memory.memory_id}`;
  const button = (/** @type {string} */ verb, /** @type {string} */ title, /** @type {string} */ done, /** @type {string} */ about) => html`<button type="button" title=${about} onClick=${() => act(done, () => call("POST", `${path}/${verb}`))}>${title}</button>`;
  const forget = () => ask({ title: "Forget this memory?", text: "Agents do not recall it any more. Undo brings it back.", yes: "Forget it", no: "Keep it", isDanger: true, done: "It is not recalled any more", work: () => call("POST", `${path}/forget`) });
  const save = async (/** @type {any} */ event) => {
    event.preventDefault();
    if (await act("It is changed", () => call("PATCH", path, { text, was }))) setText(null);
  };
  return html`<article class="card" data-of=${`${memory.status} ${memory.text}`}>
    ${text === null ? html`<p class="question">${memory.text}</p>` : html`${was === memory.text ? null : html`<p role="status">It was changed meanwhile: ${memory.text} <button type="button" title="Your text takes the place of this one" onClick=${() => setWas(memory.text)}>Replace that too</button></p>`}<form class="bar" onSubmit=${save}><label class="wide">Text <textarea rows="3" required value=${text} onInput=${(/** @type {any} */ event) => setText(event.target.value)}></textarea></label><button class="yes" title="Agents recall this text from now on">Save</button><button type="button" onClick=${() => setText(null)}>Leave it</button></form>`}
    <p class="line dim"><b class=${memory.status === "active" ? "s-succeeded" : "s-waiting"}>${memory.status}</b> ${memory.kind} of ${memory.scope}${memory.scope_id ? ` ${memory.scope_id}` : ""}
      ${memory.subject ? html`<a href=${to("memory", { subject: memory.subject, status: "all" })}>${memory.subject}</a>` : null}
      <span>trust ${memory.trust}</span> ${memory.agent_id ?? ""} ${memory.task_id ? html`<span>from task <${TaskLink} id=${memory.task_id} /></span>` : null}
      <${Ago} time=${memory.created_at} /> <span>recalled ${memory.used}, helped ${memory.helped}</span>
      ${memory.approved_by ? html`<span>promoted by ${memory.approved_by}</span>` : null} ${memory.contradicts?.length ? html`<span class="bad">contradicts ${memory.contradicts.join(", ")}</span>` : null}</p>
    <p class="bar">
      ${may("approver") && ["quarantined", "superseded"].includes(memory.status) ? button("promote", "Promote", "It is recalled from now on", "Agents recall it in their next tasks") : null}
      ${may("operator") && text === null ? html`<button type="button" onClick=${correct}>Correct</button>` : null}
      ${may("operator") && memory.status !== "forgotten" ? html`<button type="button" class="no" onClick=${forget}>Forget…</button>` : null}
      ${may("operator") ? button("undo", "Undo the last change", "The last change is taken back", "Takes back the last change of this memory alone") : null}
    </p>
  </article>`;
}
