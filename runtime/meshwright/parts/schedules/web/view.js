// @ts-check
/** Schedules: when they are due, how their last run ended, and whether they are paused. */
import { html } from "/ui/vendor/preact.js";
import { act, Ago, Asking, call, Count, Failed, may, Status, Table, TaskLink, to, useData } from "/ui/lib.js";

/** The view. */
export default function SchedulesPage() {
  const { data, error } = useData("/schedules?limit=500");
  const change = (/** @type {any} */ one, /** @type {string} */ verb, /** @type {string} */ done) => act(done, () => call("POST", `/schedules/${one.id}/${verb}`));
  const when = (/** @type {any} */ one) => one.cron ? html`<code>${one.cron}</code>` : one.every_seconds ? `every ${one.every_seconds} s` : html`<${Ago} time=${one.at} />`;
  return html`<h1>Schedules</h1><${Failed} error=${error} /><${Asking} of=${{ data, error }} />
    ${data?.items.length === 0 ? html`<p class="empty">There is no schedule: <code>mesh schedules create</code> makes one.</p>` : null}
    ${data?.items.length ? html`<${Table} label="Schedules" heads=${["Schedule", "", "State", "When", "For", "Next", "#Runs", "Last"]}>${data.items.map((/** @type {any} */ one) => html`<tr key=${one.id} data-of=${one.agent_id ?? one.capability}><td class="texts">${one.id}<br /><span class="dim under">${one.declared ? "of mesh.toml" : `by ${one.changed_by}`}</span></td><td class="line">${may("operator") ? html`${one.status === "paused" ? html`<button type="button" title="It runs again at its due times" onClick=${() => change(one, "resume", "It goes on")}>Resume</button>` : one.status === "active" ? html`<button type="button" title="Its due times pass without a task until you resume it" onClick=${() => change(one, "pause", "It is paused")}>Pause</button>` : null} <button type="button" title="Submits its task once more, now; due times stay as they are" onClick=${() => change(one, "run", "It runs now")}>Run now</button>` : null}</td><td><span class=${`status ${one.status === "active" ? "s-succeeded" : one.status === "paused" ? "s-waiting" : ""}`}>${one.status}</span></td><td>${when(one)} <span class="dim">${one.zone}</span></td>
        <td class="texts">${one.agent_id ? html`<a href=${to("tasks", { agent_id: one.agent_id })}>${one.agent_id}</a>` : one.capability}</td><td><${Ago} time=${one.next_due_at} /></td><td class="number"><${Count} value=${one.tasks} href=${to("tasks", { requested_by: `schedule:${one.id}` })} /></td>
        <td title=${one.last_run?.reason}>${one.last_run?.status === "started" ? html`<${TaskLink} id=${one.last_run.task_id} /> ` : ""}${one.last_run ? html`<${Status} status=${one.last_run.outcome ?? one.last_run.status} /> <${Ago} time=${one.last_run.at} />` : html`<span class="dim">never</span>`}</td></tr>`)}<//>` : null}`;
}
