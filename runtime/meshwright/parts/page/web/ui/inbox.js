// @ts-check
/** The inbox: a list of all that waits for a person, and the chosen question beside it. */
import { html, useEffect, useRef } from "./vendor/preact.js";
import { ask } from "./dialog.js";
import Item from "./inbox_item.js";
import { Choices, choose, chosen, Many } from "./inbox_many.js";
import { useShown } from "./keys.js";
import { Ago, call, Failed, may, me, route, slow, to, useData, waiting } from "./lib.js";
import { isForMany, kindOf, later, titleOf, toolOf, wordOf } from "./questions.js";
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
  const items = data.items.filter((/** @type {any} */ item) => (later.value[item.id] ?? 0) < now);
  const hidden = data.items.length - items.length;
  return html`<h1>Inbox <span class="dim">${items.length ? `${items.length}${data.cursor ? "+" : ""} ${items.length === 1 ? "waits" : "wait"} for a person` : ""}</span></h1>
    <${Failed} error=${error} />
    <${Held} />
    ${items.length === 0 ? html`<p class="empty">Nothing waits for a person.</p>` : html`<${Split} items=${items} />`}
    ${hidden ? html`<p class="dim">${hidden} put off. <button type="button" onClick=${() => { later.value = {}; sessionStorage.removeItem("later"); }}>Show them</button></p>` : null}
    ${data.cursor ? html`<p class="dim">The oldest ${LIMIT} are shown; more wait behind them.</p>` : null}
    <${Causes} wanted=${{}} title="Failed tasks" />`;
}

/** The list, and the question that the address names, else the first; once it is answered the next takes its place. @param {{items: any[]}} given */
function Split({ items }) {
  const named = route.value.query.get("item") ?? "";
  const isList = route.value.query.has("list");
  const place = useRef(0);
  const index = items.findIndex((item) => item.id === named || item.wait_id === named);
  if (index >= 0) place.current = index;
  const at = index >= 0 ? index : Math.min(place.current, items.length - 1);
  const question = items[at];
  useShown(question.id);
  const picked = items.filter((item) => chosen.value.has(item.id));
  const able = may("approver", "submitter") ? items.filter(isForMany) : [];
  const href = (/** @type {number} */ next) => to("inbox", { item: items[next].id });
  const kind = picked.length ? kindOf(picked[0]) : null;
  return html`<div class=${`split ${isList ? "is-list" : ""}`}>
    <section class="list" aria-label="All that waits">
      ${picked.length ? html`<${Many} picked=${picked} />` : html`<${Choices} items=${able} />`}
      <ul aria-label="Questions">${items.map((item, number) => html`<${Row} key=${item.id} item=${item} isChosen=${number === at} canPick=${able.includes(item) && (kind === null || kind === kindOf(item))} />`)}</ul>
    </section>
    <div class="detail">
      <nav class="pager" aria-label="Questions">
        <span>${at + 1} of ${items.length}</span>
        ${at > 0 ? html`<a href=${href(at - 1)} aria-keyshortcuts="k" data-always="1">Previous</a>` : null}
        ${at + 1 < items.length ? html`<a href=${href(at + 1)} aria-keyshortcuts="j" data-always="1">Next</a>` : null}
        <a class="to-list" href=${to("inbox", { list: 1 })}>All</a>
      </nav>
      <${Item} key=${question.id} question=${question} />
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
      <span class="dim of"><${Text} value=${of} />${toolOf(item) && html` <span class="tag">${toolOf(item)}</span>`}</span>
      <span class=${`status ${COLOURS[word] ?? ""}`}>${word}</span>
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

