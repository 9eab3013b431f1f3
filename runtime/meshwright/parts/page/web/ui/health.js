// @ts-check
/** One sentence above every view: how the mesh is, with the way to what is wrong. */
import { html } from "./vendor/preact.js";
import { Icon } from "./icons.js";
import { may, slow, to, useData } from "./lib.js";
import { refreshed } from "./trend.js";

/** @typedef {{level: "bad" | "wait", text: any, href: string}} Finding */

/** @param {number} count @param {string} one @param {string} [many] */
const counted = (count, one, many = `${one}s`) => `${count.toLocaleString()} ${count === 1 ? one : many}`;

/** What is not well, the worst first. @param {any} status @param {any} figures @param {any} [trends] @returns {Finding[]} */
export function findings(status, figures, trends) {
  /** @type {Finding[]} */
  const all = [];
  const add = (/** @type {Finding["level"]} */ level, /** @type {any} */ text, /** @type {string} */ href) => all.push({ level, text, href });
  const waits = Object.fromEntries(status.waits.map((/** @type {any} */ wait) => [wait.kind, wait]));
  if (status.state !== "working") add("bad", `The mesh is ${status.state} and begins no work`, to("inbox"));
  for (const one of status.missing ?? []) add("bad", `No process runs ${one.agent_id}: ${counted(one.tasks, "task waits", "tasks wait")} for it`, to("tasks", { agent_id: one.agent_id }));
  const models = figures?.models ?? [];
  const away = models.filter((/** @type {any} */ model) => !model.well);
  const since = (status.deployments ?? []).map((/** @type {any} */ one) => one.since).sort()[0];
  if (away.length) add("bad", html`${away.length} of ${counted(models.length, "model")} ${away.length === 1 ? "is" : "are"} away${since ? html` since <${Clock} time=${since} />` : ""}`, to(away.length === 1 ? `models/${encodeURIComponent(away[0].deployment)}` : "models"));
  const one = away.length === 1 && away[0].waiting ? away[0] : null;
  const waiting = one?.waiting ?? waits.provider?.tasks;
  if (waiting) add("bad", `${counted(waiting, "task waits", "tasks wait")} for ${one ? "it" : away.length ? "them" : "a model"}`, to("tasks", one ? { waits_for_model: one.deployment } : { waits_for: "provider" }));
  const failed = failures(trends);
  if (failed) add("bad", html`${counted(failed.count, "task has failed", "tasks have failed")} since <${Clock} time=${trends.since} />, ${failed.most === failed.count ? "all" : failed.most.toLocaleString()} of ${failed.agent_id}`, to("tasks", { status: "failed", since: trends.since }));
  const expired = (figures?.workers ?? []).filter((/** @type {any} */ worker) => worker.lease === "expired");
  if (expired.length) add("bad", counted(expired.length, "worker has lost its lease", "workers have lost their lease"), to("mesh"));
  for (const one of status.projections ?? []) add("bad", `The list ${one.name} has stopped`, to("events"));
  if (status.losses?.length) add("bad", "The database lacks events that the mesh had seen", to("events"));
  const unread = (figures?.parked ?? []).filter((/** @type {any} */ one) => one.unreached && Date.now() - Date.parse(one.unreached_since) > UNREAD_MS);
  const questions = unread.reduce((/** @type {number} */ sum, /** @type {any} */ one) => sum + one.unreached, 0);
  const oldest = unread.map((/** @type {any} */ one) => one.unreached_since).sort()[0];
  if (questions) add("wait", html`${counted(questions, "question has", "questions have")} reached nobody who may answer, since <${Clock} time=${oldest} />`, to("inbox"));
  if (figures?.stuck?.length) add("wait", counted(figures.stuck.length, "task runs far longer than usual", "tasks run far longer than usual"), to("tasks", { stuck: 1 }));
  if (waits.money) add("wait", html`${counted(waits.money.tasks, "task waits", "tasks wait")} for money`, to("tasks", { waits_for: "money" }));
  return all;
}

/** The tasks that failed or timed out within some trends, and the agent that has most of them. @param {any} trends */
function failures(trends) {
  const rows = (trends?.agents ?? []).map((/** @type {any} */ agent) => ({ agent_id: agent.agent_id, most: agent.hours.reduce((/** @type {number} */ sum, /** @type {any} */ hour) => sum + hour.failed + hour.timed_out, 0) }));
  const count = rows.reduce((/** @type {number} */ sum, /** @type {any} */ row) => sum + row.most, 0);
  return count ? { count, ...rows.sort((/** @type {any} */ one, /** @type {any} */ other) => other.most - one.most)[0] } : null;
}

/** Those of this hour and the one before. */
const useRecent = () => useData(may("viewer") ? "/figures/trends?hours=2" : null, refreshed).data;

/** A time of today as a clock, an older one with its day. @param {{time: string}} given */
export function Clock({ time }) {
  const at = new Date(time);
  const isToday = at.toDateString() === new Date().toDateString();
  return html`<time datetime=${time}>${isToday ? at.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" }) : at.toLocaleString([], { weekday: "short", hour: "2-digit", minute: "2-digit" })}</time>`;
}

/** All that is not well, a line each. @param {{figures: any}} given */
export function FindingsList({ figures }) {
  const { data: status } = useData("/status", slow);
  const trends = useRecent();
  const all = status ? findings(status, figures, trends) : [];
  return all.length ? html`<ul class="wide-table findings" aria-label="What is not well">${all.map((one, at) => html`<li key=${at} class=${one.level}><a href=${one.href}>${one.text}</a></li>`)}</ul>` : null;
}

const SHOWN = 3;
const UNREAD_MS = 60_000; // a channel or a page that is open shows a question within seconds

/** The sentence, for those who may see the figures. */
export function Health() {
  const { data: status } = useData(may("viewer") ? "/status" : null, slow);
  const { data: figures } = useData(may("viewer") ? "/figures" : null, slow);
  const trends = useRecent();
  if (!status) return null;
  const all = findings(status, figures, trends);
  if (!all.length) return html`<p class="health"><${Icon} name="well" /> <span>All is well: <a href=${to("tasks", { status: "running" })}>${(status.tasks.running ?? 0).toLocaleString()} running</a>, ${(status.tasks.waiting ?? 0).toLocaleString()} waiting.</span></p>`;
  const level = all.some((one) => one.level === "bad") ? "bad" : "wait";
  return html`<p class=${`health ${level}`}><${Icon} name="trouble" />${all.slice(0, SHOWN).map((one, at) => html`<span key=${at}><a href=${one.href}>${one.text}</a>.</span>`)}${all.length > SHOWN ? html`<a href=${to("mesh")}>${all.length - SHOWN} more</a>` : null}</p>`;
}
