// @ts-check
/** One question to a person: what it is about, and the buttons that answer it. */
import { html, useEffect, useRef, useState } from "./vendor/preact.js";
import { drafts, isOff, keep } from "./answers.js";
import { ask } from "./dialog.js";
import { Earlier } from "./earlier.js";
import { filled, Inputs, isPlain, worded } from "./form.js";
import { Claim, isTaken, Take } from "./inbox_claim.js";
import { Changed, changeable, EditedArguments, FORM } from "./inbox_arguments.js";
import { isMoney, Money } from "./inbox_money.js";
import { Key, useSeen } from "./keys.js";
import { act, Ago, asked, call, Failed, may, me, Shown, slow, TaskLink, to, useData } from "./lib.js";
import { answer, isDecision, isDoubt, names, postpone, send, sentence, titleOf, wordOf } from "./questions.js";
import { Text, visible } from "./unseen.js";

const SHORT_CHARS = 80;

/**
 * A question with all that is needed to answer it: the effect first, the buttons always in sight. They are off until
 * a person can have seen it. One that `left` the inbox stays, with what became of it.
 * @param {{question: any, left?: any}} given
 */
export default function Item({ question: listed, left }) {
  const [opened, setOpened] = useState(/** @type {any} */ (null));
  const [isEdited, edit] = useState(false);
  const isSeen = useSeen(`${listed.id} ${listed.digest}`);
  const [despite, disregard] = useState("");
  const anyway = isTaken(listed) && despite === listed.claimed_by;
  const isHeld = !left && isTaken(listed) && !anyway;
  const isLive = isSeen && !left && !isHeld;
  const shown = { ...listed, isLive, isHeld, anyway };
  const question = opened ? { ...shown, question: opened.question ?? listed.question, subject: { ...listed.subject, ...opened.subject } } : shown;
  const subject = question.subject ?? {};
  const isTask = Boolean(question.task_id);
  const isHidden = Boolean(subject.hidden_parts?.lines);
  const first = (question.may_answer ?? []).filter((/** @type {string} */ name) => !question.escalated_to?.includes(name));
  const title = titleOf(listed);
  return html`<article class="item" aria-label=${visible(question.question)}>
    <div class="item-body" tabindex="0">
      ${title === sentence(question).trim() ? html`<p class="question asked"><${Text} value=${title} /></p>` : html`<h2 class="asked"><${Text} value=${title} /></h2><p class="question"><${Text} value=${sentence(question)} /></p>`}
      <p class="line dim"><span>${wordOf(listed)} <b><${Text} value=${question.agent_id || question.source ? `of ${question.agent_id ?? question.source}` : subject.deployment} /></b></span> <${Ago} time=${question.since} />
        ${isTask ? html`<span>task <${TaskLink} id=${question.task_id} />${question.tasks > 1 ? html` and <a href=${to("tasks", { status: "waiting" })}>${question.tasks - 1} more</a>` : ""}</span>` : null}
        ${question.expires_at ? html`<span>expires <${Ago} time=${question.expires_at} /></span>` : null}
        ${first.length ? html`<span>asked of <b><${Text} value=${names(first)} /></b></span>` : null}
        ${question.reminded_at ? html`<span>reminded <${Ago} time=${question.reminded_at} />${question.escalated_to?.length ? html`, and <b><${Text} value=${names(question.escalated_to)} /></b> asked as well` : ""}</span>` : null}
        ${left ? null : html`<${Take} question=${listed} />`}</p>
      ${isTask && isHidden ? html`<${Hidden} question=${listed} isOpen=${Boolean(opened)} open=${setOpened} />` : null}
      ${subject.why && subject.kind !== "question" ? html`<p><span class="dim">Why it asks:</span> <${Text} value=${subject.why} /></p>` : null}
      <${Facts} subject=${subject} asked=${question.question} edited=${isEdited ? html`<${EditedArguments} question=${question} close=${() => edit(false)} />` : null} />
      ${isDoubt(question) ? html`<${Interrupted} question=${question} />` : null}
      ${isTask && !question.source ? html`<${LastWords} task=${question.task_id} />` : null}
      ${isTask && subject.tool && subject.kind !== "question" ? html`<${Earlier} subject=${subject} />` : null}
    </div>
    <footer>${left ? html`<p class="left" role="status"><${Left} end=${left} /></p>` : html`<${Claim} question=${listed} despite=${despite} disregard=${disregard} />`}<${Answer} question=${question} decides=${isDecision(question)} isUnseen=${isHidden && !opened} isEdited=${isEdited} edit=${edit} /></footer>
  </article>`;
}

/** @type {Record<string, string>} */
const ENDS = { answered: "Answered", expired: "Expired without an answer", closed: "Its task waits for this no longer" };

/** What became of a question, and by whom. @param {{end: any}} given */
function Left({ end }) {
  const { status, answered_by: by, decision, ended_at: at } = end;
  const isMine = me.value?.logged_in && by === me.value.name;
  const text = decision ? decision[0].toUpperCase() + decision.slice(1) : ENDS[status] ?? status;
  return html`<b>${text}${by ? html` by ${isMine ? "you" : by}` : ""}</b>${at ? html`, <${Ago} time=${at} />` : ""}. Nothing is sent from here any more.`;
}

/** What a question is about: its effect first, then what is known, then the call; `edited` stands in place of its arguments. @param {{subject: any, asked: string, edited?: any}} given */
export function Facts({ subject, asked: text, edited }) {
  const { kind, agent_id, hidden_parts, ...about } = subject;
  const isQuestion = kind === "question";
  const fields = isQuestion ? about : {};
  const names = Object.keys(subject.arguments ?? {});
  return html`${isQuestion ? null : html`${subject.effect ? html`<h2>Its effect</h2><${Effect} value=${subject.effect} />` : null}
      ${subject.difference ? html`<h2>Difference</h2><${Effect} value=${subject.difference} />` : null}
      ${subject.check && !text.includes(subject.check) ? html`<h2>Its check</h2><p class="question"><${Text} value=${subject.check} /></p>` : null}`}
    ${Object.keys(fields).length ? html`<h2>About</h2><${Fields} fields=${fields} />` : null}
    ${!isQuestion && names.length ? html`<h2>Arguments${subject.tool ? html` <span class="dim">of ${subject.tool}</span>` : ""}</h2>${edited ?? html`<${Fields} fields=${subject.arguments} />`}` : null}
    ${isQuestion ? null : html`<${Changed} subject=${subject} />${Object.keys(subject.request ?? {}).length ? html`<h2>Arguments <span class="dim">of ${kind.replace(/^tool /, "")}</span></h2><${Fields} fields=${argumentsOf(subject.request)} />` : null}`}`;
}

/** The arguments of an interrupted call: those of a tool are JSON. @param {any} request */
function argumentsOf(request) {
  try {
    return Object.keys(request).length === 1 ? Object(JSON.parse(request.arguments)) : request;
  } catch {
    return request;
  }
}

/** When a step began that was interrupted, its key at the service, and what its task was asked. @param {{question: any}} given */
function Interrupted({ question }) {
  const { began_at: began, step_id: key } = question.subject ?? {};
  const { data } = useData(may("contents", "submitter") ? `/tasks/${question.task_id}` : null);
  const at = (/** @type {string} */ time) => html`${new Date(time).toLocaleTimeString()}, <${Ago} time=${time} />`;
  const text = data?.payload.text;
  return html`<dl class="facts">${began ? html`<dt>It began</dt><dd>${at(began)}</dd><dt>The mesh was back</dt><dd>by ${at(question.since)}: it stopped between these times</dd>` : null}
    ${key ? html`<dt>Idempotency key</dt><dd><code>${key}</code></dd>` : null}
    ${data ? html`<dt>Its task</dt><dd><${Shown} value=${typeof text === "string" && Object.keys(data.payload).length === 1 ? text : data.payload} /></dd>` : null}</dl>`;
}

/** @param {{characters: number, lines: number}} counts */
const sizeOf = ({ characters, lines }) => `${characters.toLocaleString("en")} ${characters === 1 ? "character" : "characters"} in ${lines.toLocaleString("en")} ${lines === 1 ? "line" : "lines"}`;

/** Says how much of a question is hidden, and opens it for those who may answer. @param {{question: any, isOpen: boolean, open: (whole: any) => void}} given */
function Hidden({ question, isOpen, open }) {
  const size = sizeOf(question.subject.hidden_parts);
  if (isOpen) return html`<p class="dim">You see what was hidden (${size}). The audit trail says so.</p>`;
  const show = () => act("Shown, and recorded", async () => open(await call("POST", `/tasks/${question.task_id}/reveal`, { key: question.wait_id })));
  return html`<p class="line"><span class="mark">${size} hidden</span>${may("approver", "submitter") ? html`<button type="button" title="Opens it here; the audit trail says so" onClick=${show}>Show what is hidden</button>` : null}</p>`;
}

/** @param {{fields: Record<string, any>}} given */
const Fields = ({ fields }) =>
  html`<dl class="facts">${Object.entries(fields).map(([name, value]) => html`<dt><${Text} value=${name} /></dt><dd>${isShort(value) ? html`<code><${Text} value=${String(value)} /></code>` : html`<${Shown} value=${value} />`}</dd>`)}</dl>`;

/** Whether a value stands in one line. @param {any} value */
const isShort = (value) => (typeof value === "string" ? value.length <= SHORT_CHARS && value !== "" && !value.includes("\n") : typeof value === "number" || typeof value === "boolean");

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

/** @param {{question: any, decides: boolean, isUnseen: boolean, isEdited: boolean, edit: (isEdited: boolean) => void}} given */
function Answer({ question, decides, isUnseen, isEdited, edit }) {
  const [reason, setReason] = useState(drafts.get(question.id)?.reason ?? "");
  const isMine = may("approver", "submitter");
  const notNow = html`<button type="button" disabled=${isOff(question) && !question.isHeld} title="Hides it in this browser for an hour; it goes on waiting" onClick=${() => postpone(question)}>Not now</button>`;
  if (!question.task_id && !question.source) return html`<${Refused} question=${question} notNow=${notNow} />`;
  if (isMoney(question)) return html`<${Money} question=${question} stop=${(/** @type {any} */ value) => answer(question, value, "The task gets no more money")} postpone=${(/** @type {number} */ until) => postpone(question, until)} notNow=${notNow} />`;
  if (!isMine) return html`<p class="dim">You may look, and not answer.</p>`;
  if (isDoubt(question)) return html`<${Doubt} question=${question} notNow=${notNow} />`;
  if (isEdited)
    return html`<div class="bar">
      <button disabled=${isOff(question)} class="yes" form=${FORM} title="The call runs with the arguments above">Approve with these</button>
      <label>Reason <input name="reason" form=${FORM} /></label>
      <button type="button" disabled=${isOff(question)} onClick=${() => edit(false)}>Leave them as they were</button>
    </div>`;
  const type = (/** @type {any} */ { target }) => {
    setReason(target.value);
    keep(question, "reason", target.value);
  };
  const approve = () => answer(question, { approve: true }, "Approved");
  const deny = () => answer(question, reason ? { approve: false, reason } : { approve: false }, "Denied");
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
      <button type="button" disabled=${isOff(question)} class="yes" aria-keyshortcuts="a" title=${question.subject?.tool ? `${question.subject.tool} runs once, with these arguments` : "The task goes on with a yes"} onClick=${isUnseen ? warn : approve}>Approve${isUnseen ? "…" : ""}<${Key} name="a" /></button>
      <label>Reason <input aria-keyshortcuts="d" value=${reason} onKeyDown=${(/** @type {KeyboardEvent} */ event) => event.key === "Enter" && !isOff(question) && deny()} onInput=${type} /></label>
      <button type="button" disabled=${isOff(question)} class="no" title="It is not done; the agent gets the reason, and goes on" onClick=${deny}>Deny<${Key} name="d" /></button>
      ${changeable(question) ? html`<button type="button" disabled=${isOff(question)} title="Opens the arguments here; nothing is sent yet" onClick=${() => edit(true)}>Change arguments</button>` : null}
      ${notNow}
    </form>`;
  return html`<${Form} question=${question} notNow=${notNow} />`;
}

/** A model that refuses a key: repaired at its provider, then tested here. @param {{question: any, notNow: any}} given */
function Refused({ question, notNow }) {
  const name = question.subject.deployment;
  const { data: trends } = useData(may("viewer") ? "/figures/trends?hours=2" : null, slow);
  const group = trends?.models.find((/** @type {any} */ one) => one.deployment === name)?.group;
  const test = () =>
    act(`${name} answers: it gets calls again`, async () => {
      const { items } = await call("POST", "/deployments/test", group ? { model: group } : {});
      const own = items.find((/** @type {any} */ item) => `${name}/`.startsWith(`${item.deployment}/`));
      if (!own?.ok) throw Object.assign(new Error(`${name} does not answer yet: ${own?.error?.message ?? own?.error ?? "it was not called"}`), { isSoft: true });
    });
  return html`<p class="dim">It leaves the inbox when the model answers again. Repair it where the key comes from, then test it: <a href=${to(`models/${encodeURIComponent(name)}`)}>the model</a>, <a href=${to("tasks", { waits_for_model: name })}>the tasks that wait for it</a>.</p>
    <div class="bar">${may("operator") ? html`<button type="button" class="yes" disabled=${isOff(question)} title=${`Calls ${group ? `the deployments of ${group}` : "each deployment"} up to eight times, for a few tokens`} onClick=${test}>Test</button>` : null}${notNow}</div>`;
}

/** A step that may have happened, or a run that would start over: buttons that say what they do. @param {{question: any, notNow: any}} given */
function Doubt({ question, notNow }) {
  const [text, setText] = useState(drafts.get(question.id)?.text ?? "");
  const type = (/** @type {any} */ { target }) => {
    setText(target.value);
    keep(question, "text", target.value);
  };
  const hasResult = Boolean(question.answer_schema?.properties?.result);
  const happened = hasResult ? { approve: false, ...(text.trim() ? { result: worded({}, text) } : {}) } : { approve: false, ...(text.trim() ? { reason: text } : {}) };
  return html`<form class="bar" onSubmit=${(/** @type {Event} */ event) => event.preventDefault()}>
    <button type="button" disabled=${isOff(question)} class="yes" title="What it did before, if it did, happens twice" onClick=${() => answer(question, { approve: true }, hasResult ? "It runs again" : "It starts over")}>${hasResult ? "It did not happen: run again" : "Start over, and repeat these steps"}</button>
    <label class="wide">${hasResult ? "Its result (JSON or text)" : "Reason"} <textarea rows="2" value=${text} onInput=${type}></textarea></label>
    <button type="button" disabled=${isOff(question)} class=${hasResult ? undefined : "no"} title=${hasResult ? "It does not run again; the task goes on with what you write" : "The task fails; nothing is repeated"} onClick=${() => answer(question, happened, hasResult ? "It goes on with that result" : "It ends")}>${hasResult ? "It happened, with this result" : "End the task here"}</button>
    ${notNow}
  </form>`;
}

/** A form of the question's schema; for none, or one that is not plain, a text or JSON. @param {{question: any, notNow: any}} given */
function Form({ question, notNow }) {
  const schema = question.answer_schema;
  const hasFields = isPlain(schema);
  const form = useRef(/** @type {any} */ (null));
  useEffect(() => {
    for (const [name, text] of Object.entries(drafts.get(question.id) ?? {})) {
      const control = form.current?.elements.namedItem(name);
      if (control?.type === "checkbox") control.checked = text === "on";
      else if (control) control.value = text;
    }
  }, []);
  const type = (/** @type {any} */ { target }) => keep(question, target.name, target.type === "checkbox" ? (target.checked ? "on" : "") : target.value);
  if (schema?.enum) return html`<div class="bar">${schema.enum.map((/** @type {any} */ value) => html`<button type="button" disabled=${isOff(question)} key=${String(value)} title="Sends this answer; the task goes on with it" onClick=${() => answer(question, value, `Answered: ${value}`)}>${String(value)}</button>`)}${notNow}</div>`;
  const send = (/** @type {any} */ event) => {
    event.preventDefault();
    const given = new FormData(event.target);
    answer(question, hasFields ? filled(schema, given) : worded(schema, String(given.get("text"))), "Answered");
  };
  return html`<form ref=${form} onInput=${type} onSubmit=${send}>
    <div class="stack">${hasFields ? html`<${Inputs} schema=${schema} />` : html`<label>Answer${schema && schema.type !== "string" ? " (JSON)" : ""} <textarea name="text" rows="2" required></textarea></label>`}</div>
    <div class="bar"><button disabled=${isOff(question)} class="yes" title="Sends this answer; the task goes on with it">Answer</button>${notNow}</div>
  </form>`;
}
