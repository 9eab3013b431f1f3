// @ts-check
/** The dialogs of the page: a question with fields, which stays open with its error until it is done or closed. */
import { html, signal, useEffect, useRef, useState } from "./vendor/preact.js";
import { Failed, notice, touch } from "./lib.js";

/**
 * A field of a dialog. `options` are those of a `select`, of `checks` or `radios`, as `[value, label]`; a radio has a text too, and is off with a fourth; `area` is a text of
 * several lines. The value of `checks` is a list, and that of a `check` a boolean. A text is trimmed, but for one
 * that `isExact`.
 * @typedef {{name: string, label: string, type?: string, value?: any, options?: string[][], rows?: number,
 *   required?: boolean, hint?: string, pattern?: string, placeholder?: string, isExact?: boolean}} Field
 */
/**
 * A dialog. `work` gets the values by the names of the fields; where it throws, the dialog shows why and stays.
 * `done` is said below the header afterwards. Without `no` it can only be confirmed.
 * @typedef {{title: string, text?: any, fields?: Field[], yes?: string, no?: string, isDanger?: boolean,
 *   done?: string, work?: (given: Record<string, any>) => Promise<any>}} Question
 */

const open = signal(/** @type {{question: Question, number: number, end: (isDone: boolean) => void} | null} */ (null));
let made = 0;

/** Ask in a dialog; returns whether it was done. @param {Question} question @returns {Promise<boolean>} */
export function ask(question) {
  open.value?.end(false);
  return new Promise((resolve) => {
    made += 1;
    const number = made;
    const end = (/** @type {boolean} */ isDone) => {
      if (open.value?.number === number) open.value = null;
      resolve(isDone);
    };
    open.value = { question, number, end };
  });
}

// It belongs to the view it was opened in; one that can only be confirmed may show what is shown once.
addEventListener("hashchange", () => open.value?.question.no !== "" && open.value?.end(false));

/** Where dialogs are shown. */
export function Dialogs() {
  const one = open.value;
  return one ? html`<${Dialog} key=${one.number} question=${one.question} end=${one.end} />` : null;
}

/** @param {{question: Question, end: (isDone: boolean) => void}} given */
function Dialog({ question, end }) {
  const box = useRef(/** @type {any} */ (null));
  const isDone = useRef(false);
  const before = useRef(notice.value);
  const [error, setError] = useState(/** @type {any} */ (null));
  const [isBusy, setBusy] = useState(false);
  const { no = "Cancel" } = question;
  useEffect(() => {
    box.current.showModal();
  }, []);
  const send = async (/** @type {any} */ event) => {
    event.preventDefault();
    setBusy(true);
    try {
      await question.work?.(values(question.fields ?? [], new FormData(event.target)));
      isDone.current = true;
      if (question.done) notice.value = { text: question.done };
      touch();
      box.current?.close();
    } catch (problem) {
      setError(problem);
      setBusy(false);
    }
  };
  return html`<dialog ref=${box} closedby=${no ? undefined : "none"} aria-labelledby="dialog-title" onClose=${() => end(isDone.current)}>
    <form class="stack" onSubmit=${send}>
      <h2 id="dialog-title">${question.title}</h2>
      ${question.text && typeof question.text === "string" ? html`<p>${question.text}</p>` : question.text}
      ${(question.fields ?? []).map((field) => html`<${Input} key=${field.name} field=${field} />`)}
      <${Failed} error=${error} />
      ${notice.value?.bad && notice.value !== before.current ? html`<p class="bad" role="alert">${notice.value.text}</p>` : null}
      <p class="bar"><button class=${question.isDanger ? "no" : "yes"} disabled=${isBusy}>${question.yes ?? "Save"}</button>
        ${no ? html`<button type="button" autofocus=${question.isDanger} onClick=${() => box.current.close()}>${no}</button>` : null}</p>
    </form>
  </dialog>`;
}

/** The control of a field, with its label and its hint. @param {{field: Field}} given */
export function Input({ field }) {
  const { name, label, value, type = "text", required = false, options = [] } = field;
  const hint = field.hint ? html`<span class="dim" id=${`hint-${name}`}>${field.hint}</span>` : null;
  const by = field.hint ? `hint-${name}` : undefined;
  if (type === "checks")
    return html`<fieldset><legend>${label}</legend>${options.map(([one, title]) => html`<label class="line" key=${one}><input type="checkbox" name=${name} value=${one} defaultChecked=${value?.includes(one)} /> ${title ?? one}</label>`)}${hint}</fieldset>`;
  if (type === "radios")
    return html`<fieldset><legend>${label}</legend>${options.map(([one, title, text, off]) => html`<label class="line" key=${one}><input type="radio" name=${name} value=${one} defaultChecked=${one === value} disabled=${Boolean(off)} /> <span>${title}<br /><span class="dim">${text}</span></span></label>`)}${hint}</fieldset>`;
  const known = { name, required, "aria-describedby": by };
  const control =
    type === "select"
      ? html`<select ...${known}>${options.map(([one, title]) => html`<option key=${one} value=${one} selected=${one === value}>${title ?? one}</option>`)}</select>`
      : type === "area"
        ? html`<textarea ...${known} rows=${field.rows ?? 4} defaultValue=${value ?? ""}></textarea>`
        : html`<input ...${known} type=${type} defaultValue=${value ?? ""} pattern=${field.pattern} placeholder=${field.placeholder} autocomplete="off" step=${type === "number" ? "any" : undefined} />`;
  if (type === "check") return html`<div class="field"><label class="line"><input ...${known} type="checkbox" defaultChecked=${value} /> ${label}</label>${hint}</div>`;
  return html`<div class="field"><label>${label} ${control}</label>${hint}</div>`;
}

/** The values of a form by the names of its fields. @param {Field[]} fields @param {FormData} given */
export function values(fields, given) {
  const read = (/** @type {Field} */ { name, type, isExact }) => {
    if (type === "checks") return given.getAll(name).map(String);
    if (type === "check") return given.has(name);
    const text = String(given.get(name) ?? "");
    return isExact ? text : text.trim();
  };
  return Object.fromEntries(fields.map((field) => [field.name, read(field)]));
}
