// @ts-check
/** The inbox: a list of all that waits for a person, and the chosen question beside it. */
import { html, useEffect, useRef } from "./vendor/preact.js";
import { settledHere } from "./answers.js";
import { ask } from "./dialog.js";
import { lookingAt } from "./inbox_claim.js";
import Item from "./inbox_item.js";
import { Choices, choose, chosen, Many } from "./inbox_many.js";
import { Ago, asked, call, Failed, may, me, rename, route, slow, to, useData, waiting } from "./lib.js";
import { byHaste, isForMany, kindOf, later, names, titleOf, wordOf } from "./questions.js";
import { Causes } from "./tasks.js";
import { Text, visible } from "./unseen.js";

const LIMIT = 200;
/** @type {Record<string, string>} */
const COLOURS = { approval: "s-waiting", "in doubt": "s-failed", money: "s-waiting", model: "s-failed" };

/** The view. */
export default function Inbox() {
  const { data, error } = useData(`/inbox?limit=${LIMIT}`);
  useEffect(() => {
    if (data) waiting.value = data.items.length ? `${data.items.length}${data.cursor ? "+" : ""}` : "";
  }, [data]);
  if (!data) return html`<h1>Inbox</h1><${Failed} error=${error} />${error ? null : html`<p class="dim">Asking…</p>`}`;
  const now = Date.now();
  const items = byHaste(data.items.filter((/** @type {any} */ item) => (later.value[item.id] ?? 0) < now));
  const hidden = data.items.length - items.length;
  return html`<h1>Inbox <span class="dim">${items.length ? `${items.length}${data.cursor ? "+" : ""} ${items.length === 1 ? "waits" : "wait"} for a person` : ""}</span></h1>
    <${Failed} error=${error} />
    <${Held} />
    <${Split} items=${items} />
    ${hidden ? html`<p class="dim">${hidden} put off. <button type="button" onClick=${() => { later.value = {}; sessionStorage.removeItem("later"); }}>Show them</button></p>` : null}
    ${data.cursor ? html`<p class="dim">The oldest ${LIMIT} are shown; more wait behind them.</p>` : null}
    <${Causes} wanted=${{}} title="Failed tasks" />`;
}

/** @param {any} item @param {string} name */
const isNamed = (item, name) => Boolean(name) && (item.id === name || item.wait_id === name);

/**
 * The list, and the question that the address names, else the first. It stays until its reader goes on: after an
 * answer of another person nothing takes its place, after one that was given here the next does.
 * @param {{items: any[]}} given
 */
function Split({ items }) {
  const named = route.value.query.get("item") ?? "";
  const isList = route.value.query.has("list");
  const last = useRef(/** @type {{question: any, place: number}} */ ({ question: null, place: 0 }));
  const isPinned = !named || isNamed(last.current.question ?? {}, named);
  const name = named || last.current.question?.id || items[0]?.id;
  const found = items.findIndex((item) => isNamed(item, name));
  const isDone = found < 0 && isPinned && last.current.question && settledHere.has(last.current.question.id);
  const at = isDone ? Math.min(last.current.place, items.length - 1) : found;
  const isGone = at < 0 && Boolean(name) && !isDone;
  const { data: past, error } = useData(isGone ? `/inbox?${asked({ id: last.current.question?.id ?? name, ended: true, limit: 1 })}` : null);
  const end = past?.items[0];
  const question = items[at] ?? (isGone ? (isPinned && last.current.question) || end : null);
  if (at >= 0) last.current = { question, place: at };
  else if (isGone && end && !last.current.question) last.current = { question: end, place: 0 };
  useEffect(() => {
    if (isDone && !question) last.current = { question: null, place: 0 };
    if (isList && !named) return;
    const { item, ...query } = Object.fromEntries(route.value.query);
    const address = to("inbox", { ...query, item: question?.id });
    if (question ? named !== question.id && named !== question.wait_id : isDone) rename(address);
  }, [question?.id, isDone]);
  const picked = items.filter((item) => chosen.value.has(item.id));
  const able = may("approver", "submitter") ? items.filter(isForMany) : [];
  const href = (/** @type {number} */ next) => to("inbox", { item: items[next].id });
  const kind = picked.length ? kindOf(picked[0]) : null;
  const before = at < 0 ? -1 : at - 1;
  const next = at < 0 ? Math.min(last.current.place, items.length - 1) : at + 1;
  if (!items.length && !question && !(isGone && error)) return html`<p class="empty">Nothing waits for a person.</p>`;
  return html`<div class=${`split ${isList ? "is-list" : ""}`}>
    <section class="list" aria-label="All that waits">
      ${picked.length ? html`<${Many} picked=${picked} />` : html`<${Choices} items=${able} />`}
      <ul aria-label="Questions">${items.map((item, number) => html`<${Row} key=${item.id} item=${item} isChosen=${number === at} canPick=${able.includes(item) && (kind === null || kind === kindOf(item))} />`)}</ul>
    </section>
    <div class="detail">
      <nav class="pager" aria-label="Questions">
        <span>${at < 0 ? (items.length ? `${items.length} others` : "No other") : `${at + 1} of ${items.length}`}</span>
        ${before >= 0 ? html`<a href=${href(before)} aria-keyshortcuts="k" data-always="1">Previous</a>` : null}
        ${next >= 0 && next < items.length ? html`<a href=${href(next)} aria-keyshortcuts="j" data-always="1">Next</a>` : null}
        <a class="to-list" href=${to("inbox", { list: 1 })}>All</a>
      </nav>
      ${question ? html`<${Item} key=${question.id} question=${question} left=${at < 0 ? end ?? { status: "closed" } : null} />` : html`<article class="item"><div class="item-body"><${Failed} error=${error} />${past ? html`<p>There is no question ${name} any more. Its task was deleted, or it is another tenant's.</p>` : error ? null : html`<p class="dim">Asking…</p>`}</div></article>`}
    </div>
  </div>`;
}

/** A question in a line. @param {{item: any, isChosen: boolean, canPick: boolean}} given */
function Row({ item, isChosen, canPick }) {
  const word = wordOf(item);
  const title = visible(titleOf(item));
  const of = [item.agent_id ?? item.source, item.tasks > 1 ? `${item.tasks} tasks` : ""].filter(Boolean).join(" · ");
  return html`<li class=${isChosen ? "is-chosen" : ""}>
    ${canPick ? html`<input type="checkbox" aria-label=${`Choose: ${title}`} checked=${chosen.value.has(item.id)} onChange=${(/** @type {any} */ event) => choose(item, event.target.checked)} />` : null}
    <a href=${to("inbox", { item: item.id })} aria-current=${isChosen ? "true" : undefined}>
      <span class="title"><${Text} value=${title} /></span>
      <span class="dim"><${Ago} time=${item.since} /></span>
      <span class="dim of"><${Text} value=${of} /></span>
      <span class=${`status ${COLOURS[word] ?? ""}`}>${word}</span>
      ${item.reminded_at ? html`<span class="looking"><${Text} value=${item.escalated_to?.length ? `nobody answered: ${names(item.escalated_to)} asked as well` : "nobody answered: reminded"} /></span>` : null}
      ${item.claimed_by ? html`<span class="looking">${lookingAt(item)}</span>` : null}
    </a>
  </li>`;
}

/** Says that the mesh begins no work, to those who may let it. */
function Held() {
  const { data } = useData("/status", slow);
  if (!data || data.state === "working") return null;
  const release = () =>
    ask({
      title: "Begin the work?",
      text: "Tasks that were accepted meanwhile begin, and those that were open go on.",
      yes: "Release the mesh",
      done: "The mesh begins work",
      work: () => call("POST", "/release"),
    });
  return html`<article class="card" aria-label="The mesh is held"><p>The mesh is ${data.state}: it begins no work.</p>${may("operator") && me.value.all_tenants ? html`<p class="bar"><button type="button" class="yes" onClick=${release}>Release…</button></p>` : null}</article>`;
}

