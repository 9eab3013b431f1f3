// @ts-check
/** The inbox: everything that waits for a person. */
import { html, signal, useEffect, useState } from "./vendor/preact.js";
import { Changed, changeable, changeArguments } from "./inbox_arguments.js";
import { ask } from "./dialog.js";
import { Earlier } from "./earlier.js";
import { filled, Inputs, isPlain, worded } from "./form.js";
import { act, Ago, asked, call, Failed, may, me, notice, Shown, slow, TaskLink, to, touch, useData, waiting } from "./lib.js";
import { isMoney, Money } from "./inbox_money.js";
import { Causes } from "./tasks.js";
import { Text, visible } from "./unseen.js";

const LIMIT = 200;
const NOT_NOW_MS = 3_600_000;
const chosen = signal(/** @type {Set<string>} */ (new Set()));
const later = signal(/** @type {Record<string, number>} */ (JSON.parse(sessionStorage.getItem("later") ?? "{}")));

/** @param {any} schema */
const takesApproval = (schema) => schema?.properties?.approve?.type === "boolean";
/** @param {any} question @param {any} value */
const send = (question, value) =>
  question.source
    ? call("POST", "/inbox/answer", { id: question.id, value })
    : call("POST", `/tasks/${question.task_id}/answer`, { key: question.wait_id, value });

/** Whether an answer came too late: another caller has given one, or the question is gone. @param {any} error */
const isSettled = (error) => error.status === 409 || error.status === 404;

/** @param {any} question @param {any} value @param {string} done */
export const answer = (question, value, done) =>
  act(done, async () => {
    try {
      await send(question, value);
    } catch (/** @type {any} */ error) {
      if (!isSettled(error)) throw error;
      throw Object.assign(new Error(`It was settled meanwhile. ${error.message}`), { isSoft: true });
    }
  });

/** Hide a question in this browser for an hour, or until a time. @param {any} question @param {number} [until] */
function postpone(question, until) {
  later.value = { ...later.value, [question.id]: until ?? Date.now() + NOT_NOW_MS };
  sessionStorage.setItem("later", JSON.stringify(later.value));
}

/** The view. */
export function Inbox() {
  const { data, error } = useData(`/inbox?limit=${LIMIT}`);
  useEffect(() => {
    if (data) waiting.value = data.items.length ? `${data.items.length}${data.cursor ? "+" : ""}` : "";
  }, [data]);
  if (!data) return html`<h1>Inbox</h1><${Failed} error=${error} />${error ? null : html`<p class="dim">Asking…</p>`}`;
  const now = Date.now();
  const items = data.items.filter((/** @type {any} */ item) => (later.value[item.id] ?? 0) < now);
  const hidden = data.items.length - items.length;
  const picked = items.filter((/** @type {any} */ item) => chosen.value.has(item.id));
  const able = may("approver", "submitter") ? items.filter(isForMany) : [];
  return html`<h1>Inbox</h1>
    <${Failed} error=${error} />
    <${Held} />
    ${picked.length ? null : html`<p class="bar">${groupsOf(able).map(([what, items]) => html`<${Choose} key=${what} items=${items} what=${what} />`)}</p>`}
    ${picked.length ? html`<${Many} picked=${picked} />` : null}
    ${items.length === 0 ? html`<p class="empty">Nothing waits for a person.</p>` : null}
    ${items.map((/** @type {any} */ item) => html`<${Item} key=${item.id} question=${item} kind=${picked.length ? kindOf(picked[0]) : kindOf(item)} />`)}
    ${hidden ? html`<p class="dim">${hidden} put off. <button type="button" onClick=${() => { later.value = {}; sessionStorage.removeItem("later"); }}>Show them</button></p>` : null}
    ${data.cursor ? html`<p class="dim">The oldest ${LIMIT} are shown; more wait behind them.</p>` : null}
    <${Causes} wanted=${{}} title="Failed tasks" />`;
}

/** @param {{items: any[], what: string}} given */
const Choose = ({ items, what }) => html`<button type="button" onClick=${() => { chosen.value = new Set(items.map((/** @type {any} */ item) => item.id)); }}>Choose all ${items.length} ${what}</button>`;

/** The questions that one answer is for, where there are several: by agent and tool. @param {any[]} items @returns {[string, any[]][]} */
function groupsOf(items) {
  /** @type {Map<string, any[]>} */
  const groups = new Map();
  for (const item of items) groups.set(kindOf(item), [...(groups.get(kindOf(item)) ?? []), item]);
  const wordsOf = (/** @type {any} */ item) => `of ${[item.agent_id ?? item.source, item.subject?.tool].filter(Boolean).join(", ")}`;
  return [...groups.values()].filter((of) => of.length > 1).map((of) => [wordsOf(of[0]), of]);
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

/** Whether a question is approved or denied. @param {any} question */
const isDecision = (question) => takesApproval(question.answer_schema) && !isMoney(question);
/** Whether a crash or a deploy left a step in doubt, which is answered by itself. @param {any} question */
const isDoubt = (question) => !question.source && /\/0\.[^/]*$/.test(question.wait_id);
/** Whether one answer may be for this question and others: all of it is seen. @param {any} question */
const isForMany = (question) => isDecision(question) && !isDoubt(question) && !question.subject?.hidden_parts?.lines;
/** By whom and what for a question asks, as the mesh sees it. @param {any} question */
const kindOf = (question) => (question.task_id ? `${question.agent_id}: ${question.subject?.kind} ${question.subject?.tool}` : question.wait_id.replace(/\/[^/]*$/, ""));

/** What is done with all that are chosen. @param {{picked: any[]}} given */
function Many({ picked }) {
  const decide = async (/** @type {boolean} */ approve, /** @type {string} */ reason) => {
    let settled = 0;
    const refused = [];
    for (const question of picked) {
      try {
        await send(question, approve || !reason ? { approve } : { approve, reason });
      } catch (/** @type {any} */ error) {
        if (isSettled(error)) settled += 1;
        else refused.push(error.message);
      }
    }
    chosen.value = new Set();
    const done = `${picked.length - settled - refused.length} ${approve ? "approved" : "denied"}`;
    notice.value = { text: [done, settled ? `${settled} settled meanwhile by others` : "", ...refused].filter(Boolean).join(", "), bad: refused.length > 0 };
    touch();
  };
  const confirm = (/** @type {boolean} */ approve) =>
    ask({
      title: `${approve ? "Approve" : "Deny"} ${picked.length} ${picked.length === 1 ? "question" : "questions"}`,
      text: html`<p>${approve ? "Each of these is done once:" : "None of these is done, and each agent gets the reason:"}</p><ol class="plan">${picked.map((question) => html`<li key=${question.id}><p class="question"><${Text} value=${sentence(question)} /></p><${Facts} subject=${question.subject ?? {}} asked=${question.question} /></li>`)}</ol>`,
      fields: [{ name: "reason", label: "Reason" }],
      yes: `${approve ? "Approve" : "Deny"} all ${picked.length}`,
      isDanger: !approve,
      work: (given) => decide(approve, given.reason),
    });
  return html`<p class="bar">
    <b>${picked.length} chosen</b>
    <button type="button" class="yes" onClick=${() => confirm(true)}>Approve all…</button>
    <button type="button" class="no" onClick=${() => confirm(false)}>Deny all…</button>
    <button type="button" onClick=${() => { chosen.value = new Set(); }}>Choose none</button>
  </p>`;
}

/** The question without its effect, which stands below it. @param {any} question */
const sentence = (question) => question.question.split("\nIts effect:\n")[0];

/** What a question is about: arguments, effect, what a check saw, and other data. @param {{subject: any, asked: string}} given */
function Facts({ subject, asked }) {
  const { kind, agent_id, hidden_parts, ...about } = subject;
  const fields = kind === "question" ? about : {};
  return html`${subject.arguments && kind !== "question" && Object.keys(subject.arguments).length ? html`<h2>Arguments</h2><${Fields} fields=${subject.arguments} />` : null}
    ${Object.keys(fields).length ? html`<h2>About</h2><${Fields} fields=${fields} />` : null}
    ${kind === "question" ? null : html`${subject.check && !asked.includes(subject.check) ? html`<h2>Its check</h2><p class="question"><${Text} value=${subject.check} /></p>` : null}
      ${Object.keys(subject.request ?? {}).length ? html`<h2>Its request</h2><${Shown} value=${subject.request} />` : null}
      <${Changed} subject=${subject} />
      ${subject.effect ? html`<h2>Its effect</h2><${Effect} value=${subject.effect} />` : null}
      ${subject.difference ? html`<h2>Difference</h2><${Effect} value=${subject.difference} />` : null}`}`;
}

/** A question with all that is needed to answer it; `kind` is the kind that may be chosen now. @param {{question: any, kind?: string}} given */
export function Item({ question: listed, kind }) {
  const [opened, setOpened] = useState(/** @type {any} */ (null));
  const question = opened ? { ...listed, question: opened.question ?? listed.question, subject: { ...listed.subject, ...opened.subject } } : listed;
  const subject = question.subject ?? {};
  const decides = isDecision(question);
  const isTask = Boolean(question.task_id);
  const choose = (/** @type {any} */ event) => {
    const all = new Set(chosen.value);
    event.target.checked ? all.add(question.id) : all.delete(question.id);
    chosen.value = all;
  };
  return html`<article class="card" aria-label=${visible(question.question)}>
    <header class="line">
      ${isForMany(listed) && kindOf(listed) === kind && may("approver", "submitter") ? html`<input type="checkbox" aria-label="Choose" checked=${chosen.value.has(question.id)} onChange=${choose} />` : null}
      <b><${Text} value=${question.agent_id ?? question.source} /></b>
      <span class="dim"><${Ago} time=${question.since} /></span>
      ${isTask ? html`<span class="dim">task <${TaskLink} id=${question.task_id} />${question.tasks > 1 ? html` and <a href=${to("tasks", { status: "waiting" })}>${question.tasks - 1} more</a>` : ""}</span>` : null}
      ${question.expires_at ? html`<span class="dim">expires <${Ago} time=${question.expires_at} /></span>` : null}
    </header>
    <p class="question"><${Text} value=${sentence(question)} /></p>
    ${isTask && subject.hidden_parts?.lines ? html`<${Hidden} question=${listed} isOpen=${Boolean(opened)} open=${setOpened} />` : null}
    ${subject.why && subject.kind !== "question" ? html`<p class="dim"><${Text} value=${subject.why} /></p>` : null}
    <${Facts} subject=${subject} asked=${question.question} />
    ${isTask && !question.source ? html`<${LastWords} task=${question.task_id} />` : null}
    ${isTask && subject.tool && subject.kind !== "question" ? html`<${Earlier} subject=${subject} />` : null}
    <${Answer} question=${question} decides=${decides} isUnseen=${Boolean(subject.hidden_parts?.lines) && !opened} />
  </article>`;
}

/** @param {{characters: number, lines: number}} counts */
const sizeOf = ({ characters, lines }) => `${characters.toLocaleString("en")} ${characters === 1 ? "character" : "characters"} in ${lines.toLocaleString("en")} ${lines === 1 ? "line" : "lines"}`;

/** Says how much of a question is hidden, and opens it for those who may answer. @param {{question: any, isOpen: boolean, open: (whole: any) => void}} given */
function Hidden({ question, isOpen, open }) {
  const size = sizeOf(question.subject.hidden_parts);
  if (isOpen) return html`<p class="dim">You see what was hidden (${size}). The audit trail says so.</p>`;
  const show = () => act("Shown, and recorded", async () => open(await call("POST", `/tasks/${question.task_id}/reveal`, { key: question.wait_id })));
  return html`<p class="line"><span class="mark">${size} hidden</span>${may("approver", "submitter") ? html`<button type="button" onClick=${show}>Show what is hidden</button>` : null}</p>`;
}

/** @param {{fields: Record<string, any>}} given */
const Fields = ({ fields }) =>
  html`<dl>${Object.entries(fields).map(([name, value]) => html`<dt><${Text} value=${name} /></dt><dd><${Shown} value=${value} /></dd>`)}</dl>`;

/** A diff with its colours, or any other effect as it is. @param {{value: any}} given */
function Effect({ value }) {
  const text = typeof value === "string" ? value : (value?.diff ?? value?.text ?? JSON.stringify(value, null, 2));
  return html`<pre tabindex="0" class="diff">${String(text).split("\n").map((line) => html`<span class=${/^\+(?!\+\+)/.test(line) ? "add" : /^-(?!--)/.test(line) ? "del" : ""}><${Text} value=${line} />${"\n"}</span>`)}</pre>`;
}

/** The model's last words before the question, where somebody asks for them. @param {{task: string}} given */
function LastWords({ task }) {
  const [isOpen, open] = useState(false);
  const { data, error } = useData(isOpen && may("contents", "submitter") ? `/tasks/${task}/steps?${asked({ contents: true, limit: 500 })}` : null);
  const said = data?.items.filter((/** @type {any} */ step) => step.kind === "model" && step.reply?.content).at(-1);
  return html`<details onToggle=${(/** @type {any} */ event) => open(event.target.open)}>
    <summary>What the model said before</summary>
    <${Failed} error=${error} />
    ${isOpen && data ? (said ? html`<${Shown} value=${said.reply.content} />` : html`<p class="dim">Its calls of tools came without words. The task has all steps.</p>`) : null}
  </details>`;
}

/** @param {{question: any, decides: boolean, isUnseen: boolean}} given */
function Answer({ question, decides, isUnseen }) {
  const [reason, setReason] = useState("");
  const isMine = may("approver", "submitter");
  const notNow = html`<button type="button" onClick=${() => postpone(question)}>Not now</button>`;
  if (!question.task_id && !question.source) return html`<p class="dim">It leaves the inbox when the model answers again: repair its key or its credit. ${notNow}</p>`;
  if (isMoney(question)) return html`<${Money} question=${question} stop=${(/** @type {any} */ value) => answer(question, value, "The task gets no more money")} postpone=${(/** @type {number} */ until) => postpone(question, until)} notNow=${notNow} />`;
  if (!isMine) return html`<p class="dim">You may look, and not answer.</p>`;
  if (isDoubt(question)) return html`<${Doubt} question=${question} notNow=${notNow} />`;
  const approve = () => answer(question, { approve: true }, "Approved");
  const warn = () =>
    ask({
      title: "Approve what is not shown?",
      text: `${sizeOf(question.subject.hidden_parts)} look like secrets and are hidden. They run, or are committed, too.`,
      yes: "Approve unseen",
      isDanger: true,
      done: "Approved",
      work: () => send(question, { approve: true }),
    });
  if (decides)
    return html`<form class="bar" onSubmit=${(/** @type {Event} */ event) => event.preventDefault()}>
      <button type="button" class="yes" onClick=${isUnseen ? warn : approve}>Approve${isUnseen ? "…" : ""}</button>
      <label>Reason <input value=${reason} onInput=${(/** @type {any} */ event) => setReason(event.target.value)} /></label>
      <button type="button" class="no" onClick=${() => answer(question, reason ? { approve: false, reason } : { approve: false }, "Denied")}>Deny</button>
      ${changeable(question) ? html`<button type="button" onClick=${() => changeArguments(question, (value) => send(question, value))}>Change arguments…</button>` : null}
      ${notNow}
    </form>`;
  return html`<${Form} question=${question} notNow=${notNow} />`;
}

/** A step that may have happened, or a run that would start over: buttons that say what they do. @param {{question: any, notNow: any}} given */
function Doubt({ question, notNow }) {
  const [text, setText] = useState("");
  const hasResult = Boolean(question.answer_schema?.properties?.result);
  const happened = hasResult ? { approve: false, ...(text.trim() ? { result: worded({}, text) } : {}) } : { approve: false, ...(text.trim() ? { reason: text } : {}) };
  return html`<form class="bar" onSubmit=${(/** @type {Event} */ event) => event.preventDefault()}>
    <button type="button" class="yes" onClick=${() => answer(question, { approve: true }, hasResult ? "It runs again" : "It starts over")}>${hasResult ? "It did not happen: run again" : "Start over, and repeat these steps"}</button>
    <label class="wide">${hasResult ? "Its result (JSON or text)" : "Reason"} <textarea rows="2" value=${text} onInput=${(/** @type {any} */ event) => setText(event.target.value)}></textarea></label>
    <button type="button" class=${hasResult ? undefined : "no"} onClick=${() => answer(question, happened, hasResult ? "It goes on with that result" : "It ends")}>${hasResult ? "It happened, with this result" : "End the task here"}</button>
    ${notNow}
  </form>`;
}

/** A form of the question's schema; for none, or one that is not plain, a text or JSON. @param {{question: any, notNow: any}} given */
function Form({ question, notNow }) {
  const schema = question.answer_schema;
  const hasFields = isPlain(schema);
  if (schema?.enum) return html`<div class="bar">${schema.enum.map((/** @type {any} */ value) => html`<button type="button" key=${String(value)} onClick=${() => answer(question, value, `Answered: ${value}`)}>${String(value)}</button>`)}${notNow}</div>`;
  const send = (/** @type {any} */ event) => {
    event.preventDefault();
    const given = new FormData(event.target);
    answer(question, hasFields ? filled(schema, given) : worded(schema, String(given.get("text"))), "Answered");
  };
  return html`<form class="bar" onSubmit=${send}>
    ${hasFields ? html`<${Inputs} schema=${schema} />` : html`<label class="wide">Answer${schema && schema.type !== "string" ? " (JSON)" : ""} <textarea name="text" rows="2" required></textarea></label>`}
    <button class="yes">Answer</button>${notNow}
  </form>`;
}
