// @ts-check
/** The command palette (Ctrl-K): any view, agent or task by its name, a task by its words, an open question by its words; and the keys of the page (?). */
import { html, signal, useEffect, useRef, useState } from "./vendor/preact.js";
import { Icon } from "./icons.js";
import { isTyped, Key } from "./keys.js";
import { asked, Match, may, short, slow, to, Unindexed, useData } from "./lib.js";
import { Text } from "./unseen.js";

const SHOWN = 12;
const SHOWN_OF_KIND = 5;
const LEAST_CHARS = 2;
const PAUSE_MS = 200;
const KEYS = [
  ["Ctrl K", "go to a view, an agent, a task or a question"],
  ["j", "the next question of the inbox"],
  ["k", "the question before"],
  ["a", "approve what is shown"],
  ["d", "write the reason of a denial; Enter denies"],
  ["c", "claim the question, or renew your claim"],
  ["?", "these keys"],
];

/** What is open: the palette, the keys, or nothing. */
const open = signal(/** @type {"" | "palette" | "keys"} */ (""));

/** Opens the palette. */
export const openPalette = () => {
  open.value = "palette";
};

/** @typedef {{name: string, kind: string, icon: string, href: string, match?: any}} Entry */

/** Where the palette and the keys are shown. @param {{views: [string, {title: string}][]}} given */
export function Palette({ views }) {
  useEffect(() => {
    const press = (/** @type {KeyboardEvent} */ event) => {
      if (document.querySelector("dialog[open]")) return;
      if ((event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "k") {
        event.preventDefault();
        openPalette();
      } else if (event.key === "?" && !isTyped(event.target)) open.value = "keys";
    };
    addEventListener("keydown", press);
    return () => removeEventListener("keydown", press);
  }, []);
  if (!open.value) return null;
  return html`<${Box} key=${open.value} of=${open.value} label=${open.value === "keys" ? "Keys" : "Go to"}>${open.value === "keys" ? html`<${Keys} />` : html`<${Search} views=${views} />`}<//>`;
}

/** @param {{of: string, label: string, children?: any}} given */
function Box({ of, label, children }) {
  const box = useRef(/** @type {any} */ (null));
  useEffect(() => {
    box.current.showModal();
  }, []);
  return html`<dialog ref=${box} class="palette" closedby="any" aria-label=${label} onClose=${() => { if (open.value === of) open.value = ""; }}>${children}</dialog>`;
}

const Keys = () => html`<h2>Keys</h2><dl class="facts">${KEYS.map(([key, text]) => html`<dt key=${key}><${Key} name=${key} /><span class="unseen">${key}</span></dt><dd>${text}</dd>`)}</dl><form method="dialog"><p class="bar"><button>Close</button></p></form>`;

/** A text once nothing was typed for a moment. @param {string} text */
function useSettled(text) {
  const [settled, set] = useState(text);
  useEffect(() => {
    const timer = setTimeout(() => set(text), PAUSE_MS);
    return () => clearTimeout(timer);
  }, [text]);
  return settled;
}

/** @param {{views: [string, {title: string}][]}} given */
function Search({ views }) {
  const [text, setText] = useState("");
  const [place, setPlace] = useState(0);
  const { entries, unindexed } = useEntries(views, text.trim());
  const at = Math.min(place, entries.length - 1);
  const go = (/** @type {Entry | undefined} */ entry) => {
    if (!entry) return;
    open.value = "";
    location.hash = entry.href.slice(1);
  };
  const press = (/** @type {KeyboardEvent} */ event) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step) {
      event.preventDefault();
      setPlace((at + step + entries.length) % Math.max(entries.length, 1));
    } else if (event.key === "Enter") go(entries[at]);
  };
  return html`<input type="text" autocomplete="off" role="combobox" aria-label="Go to" aria-expanded="true" aria-controls="entries" aria-activedescendant=${entries.length ? `entry-${at}` : undefined} placeholder="A view, an agent, words of a task or question" autofocus value=${text} onInput=${(/** @type {any} */ event) => { setText(event.target.value); setPlace(0); }} onKeyDown=${press} />
    <ul id="entries" role="listbox" aria-label="Where to go">${entries.map((entry, number) => html`<li key=${entry.href} id=${`entry-${number}`} role="option" aria-selected=${number === at} onClick=${() => go(entry)}><${Icon} name=${entry.icon} /> <span class="name"><${Text} value=${entry.name} />${entry.match ? html`<${Match} of=${entry.match} />` : null}</span> <span class="dim">${entry.kind}</span></li>`)}</ul>
    ${entries.length ? null : html`<p class="dim">Nothing has that name or these words.</p>`}
    <${Unindexed} count=${unindexed} />`;
}

/** Whether a question has words in its text or in what it is about. @param {any} question @param {string} text */
const asks = (question, text) => `${question.question} ${JSON.stringify(question.subject ?? {})}`.toLowerCase().includes(text.toLowerCase());

/** A search whose last word may go on: it is still being typed. @param {string} text */
const beginning = (text) => (/["*]$/.test(text) ? text : `${text}*`);

/** What a text may mean: views first, then agents, open questions and tasks. @param {[string, {title: string}][]} views @param {string} text @returns {{entries: Entry[], unindexed: number}} */
function useEntries(views, text) {
  const settled = useSettled(text);
  const isLong = settled.length >= LEAST_CHARS;
  const { data: agents } = useData(may("viewer") ? "/agents" : null, slow);
  const { data: named } = useData(isLong && may("viewer") && /^[0-9A-Za-z]+$/.test(settled) ? `/tasks?${asked({ task_id: settled.toUpperCase(), limit: 5 })}` : null);
  const { data: worded } = useData(isLong && may("contents") ? `/tasks?${asked({ text: beginning(settled), limit: 5 })}` : null);
  const { data: inbox } = useData(isLong && may("contents") ? "/inbox?limit=200" : null);
  const questions = (inbox?.items ?? []).filter((/** @type {any} */ question) => asks(question, text)).slice(0, SHOWN_OF_KIND);
  const has = (/** @type {string} */ name) => name.toLowerCase().includes(text.toLowerCase());
  const tasks = [...(named?.items ?? []), ...(worded?.items ?? [])];
  /** @type {Entry[]} */
  const entries = [
    ...views.filter(([, view]) => has(view.title)).map(([key, view]) => ({ name: view.title, kind: "view", icon: key, href: to(key) })),
    ...(agents?.items ?? []).filter((/** @type {any} */ agent) => has(agent.agent_id)).map((/** @type {any} */ agent) => ({ name: agent.agent_id, kind: "agent", icon: "agents", href: to(`agents/${encodeURIComponent(agent.agent_id)}`) })),
    ...questions.map((/** @type {any} */ question) => ({ name: question.question, kind: "question", icon: "inbox", href: to("inbox", { item: question.id }) })),
    ...tasks.map((/** @type {any} */ task) => ({ name: task.title ?? task.capability, kind: `${task.status.replace("_", " ")} …${short(task.task_id)}`, icon: "tasks", href: to(`task/${task.task_id}`), match: task.match })),
  ];
  const once = entries.filter((entry, at) => entries.findIndex((other) => other.href === entry.href) === at);
  return { entries: once.slice(0, SHOWN), unindexed: worded?.unindexed ?? 0 };
}
