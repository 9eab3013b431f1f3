// @ts-check
/** What all views share: calls of the API, the address of the page, the stream of events, and words. */
import { html, signal, useEffect, useState } from "./vendor/preact.js";
import { Text } from "./unseen.js";

/** An answer of the API that is a problem document. */
export class Problem extends Error {
  /** @param {number} status @param {any} document */
  constructor(status, document) {
    super(document?.detail ?? `The mesh answered ${status}`);
    this.status = status;
    this.remedy = document?.remedy ?? "";
    this.field = document?.field ?? "";
  }
}

/** The caller as `GET /me` says; null until it has answered, undefined where the mesh wants a login. */
export const me = signal(/** @type {any} */ (null));
/** The tenant that a caller of all tenants acts for; empty for all of them. */
export const tenant = signal(sessionStorage.getItem("tenant") ?? "");
/** The last thing that was done or refused, for the line below the header. */
export const notice = signal(/** @type {{text: string, bad?: boolean} | null} */ (null));

/** Whether the caller has one of some roles. @param {string[]} roles */
export const may = (...roles) => roles.some((role) => me.value?.roles.includes(role));

/** Whether the caller has shown an administrator's credentials: a caller without any manages no keys. */
export const admin = () => may("admin") && (me.value.logged_in || me.value.key_id !== null || me.value.name !== "anonymous");

/** The headers of each request. @returns {Record<string, string>} */
export function headers() {
  const all = { Accept: "application/json" };
  return tenant.value ? { ...all, "Mesh-Tenant": tenant.value } : all;
}

/**
 * Call the API; returns the JSON of the answer. Throws a Problem; a 401 asks for a login.
 * @param {string} method @param {string} path @param {any} [body]
 */
export async function call(method, path, body) {
  const text = await read(method, path, body);
  return text ? JSON.parse(text) : null;
}

/**
 * The same; returns the answer as it is.
 * @param {string} method @param {string} path @param {any} [body] @param {string} [type]
 */
export async function read(method, path, body, type = "application/json") {
  if (method !== "GET") shared.clear();
  const options = { method, headers: { ...headers(), Accept: type }, body: body === undefined ? undefined : JSON.stringify(body) };
  const answer = await fetch(path, options).catch(() => {
    if (method === "GET") throw new Problem(0, { detail: "The mesh does not answer", remedy: "It is asked again." });
    throw new Problem(0, { detail: "The mesh did not answer", remedy: "Once it answers, see whether this was done. If not, do it again." });
  });
  const text = await answer.text();
  if (answer.ok) return text;
  if (answer.status === 401) await doubt(path);
  throw new Problem(answer.status, problemOf(text));
}

/** @param {string} text */
function problemOf(text) {
  try {
    return JSON.parse(text);
  } catch {
    return { detail: text.slice(0, 300) };
  }
}

/** Shows the login, and says why to a caller whose login has ended. */
function askToLogIn() {
  if (me.value?.logged_in) notice.value = { text: "Your login has ended. Log in to go on where you were." };
  me.value = undefined;
}

/** After a refusal: a login has ended, or a caller without one now needs one. @param {string} path */
async function doubt(path) {
  if (path === "/session") return;
  if (path === "/me" || me.value?.logged_in) askToLogIn();
  else if (me.value) await call("GET", "/me").catch(() => {});
}

/**
 * Do something and say how it ended; returns whether it was done.
 * @param {string} done @param {() => Promise<any>} work
 */
export async function act(done, work) {
  try {
    await work();
    notice.value = { text: done };
    touch();
    return true;
  } catch (/** @type {any} */ error) {
    notice.value = { text: [error.message, error.remedy].filter(Boolean).join(" — "), bad: !error.isSoft };
    touch();
    return false;
  }
}

// The address

const parsed = () => {
  const [path, query] = location.hash.replace(/^#\/?/, "").split("?");
  const [view, id] = path.split("/");
  return { view: view || "inbox", id: id ? decodeURIComponent(id) : "", query: new URLSearchParams(query) };
};
/** The view, its id and its query, as the address says. */
export const route = signal(parsed());
addEventListener("hashchange", () => {
  route.value = parsed();
  if (me.value) notice.value = null; // the login goes on to say why it is shown
});

/** Has the address name what is shown, without another step back. @param {string} address */
export function rename(address) {
  history.replaceState(null, "", address);
  route.value = parsed();
}

/** The address of a view. @param {string} view @param {Record<string, any>} [query] */
export function to(view, query = {}) {
  const given = Object.entries(query).filter(([, value]) => value !== "" && value != null);
  const text = new URLSearchParams(given.map(([name, value]) => [name, String(value)])).toString();
  return `#/${view}${text ? `?${text}` : ""}`;
}

/** The query of a request. @param {Record<string, any>} fields */
export const asked = (fields) => to("", fields).slice(3);

// What changes

/** Counts up when something may have changed: every half second while events come, or the less often the more pages are open. */
export const pulse = signal(0);
/** The same for what is dear to ask for: at most every five seconds, and after what the caller has done. */
export const slow = signal(0);
/** Whether events come: connecting, live or reconnecting. */
export const live = signal("connecting");
/** Since when the mesh does not answer, in milliseconds; 0 while it does. */
export const lostAt = signal(0);
/** The last events, the newest first. */
export const recent = signal(/** @type {any[]} */ ([]));
const PAUSE_MS = 500;
const SLOW_MS = 5_000;
const MS_PER_STREAM = 300;
const SPREAD_MS = 20;
const HIDDEN_MS = 60_000;
const GRACE_MS = 10_000;
const REPLAYED_MS = 60_000;
const KEPT = 300;
let due = 0;
let slowDue = 0;
let askedAt = 0;
let slowedAt = 0;
let streams = 0;
/** @type {any[]} */
let come = [];

/** Have the views ask again: soon, or for an event when other pages have had their turn. @param {boolean} [soon] */
export function touch(soon = true) {
  if (soon) slowedAt = 0;
  if (document.hidden || (due && !soon)) return;
  clearTimeout(due);
  // By chance, so that pages do not ask all at once, be it again or after a quiet time.
  const turn = askedAt + streams * MS_PER_STREAM * (0.5 + Math.random()) - Date.now();
  const spread = streams * SPREAD_MS * Math.random();
  due = setTimeout(beat, soon ? PAUSE_MS : Math.max(PAUSE_MS, turn, spread));
}
function beat() {
  due = 0;
  shared.clear();
  askedAt = Date.now();
  if (come.length) recent.value = [...come.reverse(), ...recent.value].slice(0, KEPT);
  come = [];
  pulse.value += 1;
  const left = slowedAt + SLOW_MS - askedAt;
  if (left > 0) slowDue ||= setTimeout(beatSlowly, left); // the last event may not be followed by another
  else beatSlowly();
}
function beatSlowly() {
  clearTimeout(slowDue);
  slowDue = 0;
  if (document.hidden) return;
  shared.clear();
  slowedAt = Date.now();
  slow.value += 1;
}
document.addEventListener("visibilitychange", () => touch());
// A hidden page has closed its stream; its title still says how many questions wait.
setInterval(() => document.hidden && me.value && beat(), HIDDEN_MS);

/** @type {Set<(event: any) => void>} */
const listeners = new Set();
/** Have each event as it comes; what it returns ends that. @param {(event: any) => void} hear */
export function listen(hear) {
  listeners.add(hear);
  return () => {
    listeners.delete(hear);
  };
}

/**
 * The blocks of a stream of events as they come: the id and the event of a block, or its comment.
 * @param {Response} answer @returns {AsyncGenerator<{id: string, event: any, comment: string}>}
 */
export async function* blocksOf(answer) {
  const reader = /** @type {ReadableStream} */ (answer.body).pipeThrough(new TextDecoderStream()).getReader();
  for (let rest = ""; ; ) {
    const { value, done } = await reader.read();
    if (done) return;
    const blocks = (rest + value).split("\n\n");
    rest = blocks.pop() ?? "";
    for (const block of blocks) {
      const lines = block.split("\n");
      const data = lines.filter((line) => line.startsWith("data:")).map((line) => line.slice(5)).join("\n");
      yield { id: lines.find((line) => line.startsWith("id:"))?.slice(3).trim() ?? "", event: data ? JSON.parse(data) : null, comment: block.startsWith(":") ? block : "" };
    }
  }
}

/** @param {any} event */
function take(event) {
  if (!event?.event_type) return;
  for (const hear of listeners) hear(event);
  come.push(event);
  if (come.length > KEPT) come.shift();
  touch(false);
}

/** Returns when the page can be seen. */
async function shown() {
  while (document.hidden) await new Promise((resolve) => document.addEventListener("visibilitychange", resolve, { once: true }));
}

/** A signal that is given once the page has been hidden for a while. @param {AbortController} ended */
function whenHidden(ended) {
  const look = () => setTimeout(() => document.hidden && ended.abort(), GRACE_MS);
  document.addEventListener("visibilitychange", look, { signal: ended.signal });
  return ended.signal;
}

let current = new AbortController();
let followed = 0;

/**
 * Follow the events of the mesh while the page can be seen, and go on after a break behind the last one.
 * A second call ends the first.
 */
export async function follow() {
  followed += 1;
  const number = followed;
  current.abort();
  let last = "";
  let heardAt = 0;
  for (let pause = 500; me.value && number === followed; pause = Math.min(pause * 2, 15_000)) {
    if (document.hidden) last = ""; // the views ask again then
    await shown();
    if (Date.now() > heardAt + REPLAYED_MS) last = ""; // a night of events is not replayed, the views ask again
    const ended = new AbortController();
    current = ended;
    try {
      /** @type {Record<string, string>} */
      const wanted = { ...headers(), Accept: "text/event-stream" };
      if (last) wanted["Last-Event-ID"] = last;
      const answer = await fetch("/events/stream", { headers: wanted, signal: whenHidden(ended) });
      if (answer.status === 401) askToLogIn();
      if (!answer.ok || !answer.body) throw new Error(String(answer.status));
      live.value = "live";
      lostAt.value = 0;
      pause = 500;
      touch();
      for await (const { id, event, comment } of blocksOf(answer)) {
        streams = Number(/^: (\d+) streams/.exec(comment)?.[1] ?? streams);
        last = id || last;
        heardAt = Date.now();
        take(event);
      }
    } catch {
      // The mesh is away or stops, or the page is hidden; the next round asks again.
    }
    ended.abort();
    if (number !== followed) return;
    streams = 0;
    live.value = "reconnecting";
    if (!document.hidden) lostAt.value ||= Date.now();
    await new Promise((resolve) => setTimeout(resolve, pause));
  }
}

const SHARED_MS = 1_000;
/** Answers that views share which ask for the same within a second, unless something changed meanwhile. @type {Map<string, Promise<any>>} */
const shared = new Map();
/** @param {string} path */
function share(path) {
  const name = `${tenant.value} ${path}`;
  if (!shared.has(name)) {
    shared.set(name, call("GET", path));
    setTimeout(() => shared.delete(name), SHARED_MS);
  }
  return /** @type {Promise<any>} */ (shared.get(name));
}

/**
 * What the API answers at a path: `{data, error}`, asked again when something changed. No path asks for nothing.
 * `of` counts up when to ask again.
 * @param {string | null} path @param {{value: number}} [of]
 */
export function useData(path, of = pulse) {
  const [state, set] = useState(/** @type {any} */ ({}));
  const beat = of.value;
  useEffect(() => {
    if (path === null) return undefined;
    let isOld = false;
    share(path).then(
      (data) => isOld || set({ path, data }),
      (error) => isOld || set((/** @type {any} */ before) => ({ path, data: before.path === path ? before.data : undefined, error })),
    );
    return () => {
      isOld = true;
    };
  }, [path, beat, tenant.value]);
  return state.path === path ? state : {};
}

/** @type {Map<string, any>} */
const known = new Map();
/**
 * What a call answered, which is made once while the page is open. @param {string} name @param {() => Promise<any>} ask
 */
export function useOnce(name, ask) {
  name = `${tenant.value} ${name}`;
  const [data, set] = useState(known.get(name));
  useEffect(() => {
    if (!known.has(name)) ask().then((found) => { known.set(name, found); set(found); }, () => {}); // it is then not shown
  }, [name]);
  return data;
}

// Words

/** @param {string} id */
export const short = (id) => id.slice(-6);
/** @param {string | number | null | undefined} amount */
export function dollars(amount) {
  if (amount == null) return "?";
  const value = Number(amount);
  return value === 0 ? "$0" : `$${value.toFixed(value >= 1 ? 2 : 4)}`;
}
/** @param {number | null | undefined} seconds */
export function span(seconds) {
  if (seconds == null) return "";
  if (seconds < 0.01) return seconds > 0 ? "< 0.01 s" : "0 s";
  if (seconds < 9.95) return `${seconds.toFixed(seconds < 1 ? 2 : 1)} s`;
  if (seconds < 59.5) return `${Math.round(seconds)} s`;
  seconds = Math.round(seconds);
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${seconds % 60} s`;
  if (seconds < 86_400) return `${Math.floor(seconds / 3600)} h ${Math.floor((seconds % 3600) / 60)} min`;
  return `${Math.floor(seconds / 86_400)} d`;
}
const clock = signal(Date.now());
setInterval(() => {
  clock.value = Date.now();
}, 5_000);
/** A time as its age. @param {{time: string | null | undefined}} given */
export function Ago({ time }) {
  if (!time) return "";
  const seconds = (clock.value - Date.parse(time)) / 1000;
  const text = seconds < -5 ? `in ${span(-seconds)}` : seconds < 5 ? "now" : `${span(seconds)} ago`;
  return html`<time datetime=${time} title=${new Date(time).toLocaleString()}>${text}</time>`;
}
/** @param {{status: string}} given */
export const Status = ({ status }) => html`<span class=${`status s-${status}`}>${status.replace("_", " ")}</span>`;
/** A link to a task. @param {{id: string}} given */
export const TaskLink = ({ id }) => html`<a href=${to(`task/${id}`)} title=${id}><code>…${short(id)}</code></a>`;
/** A number that leads to what it counts, where there is some, and an address. @param {{value: any, href: string}} given */
export function Count({ value, href }) {
  const text = typeof value === "number" ? value.toLocaleString() : (value ?? "");
  const isNone = !value || value === "$0";
  return isNone || !href ? html`<span class=${isNone ? "dim" : undefined}>${text}</span>` : html`<a href=${href}>${text}</a>`;
}
/** The address of the calls of models among the events; empty for a caller who may not see them. @param {Record<string, any>} of */
export const callsOf = (of) => (may("viewer") ? to("events", { event_type: "model.called", ...of }) : "");
/** The titles of columns for the style sheet, as custom properties. @param {string[]} heads */
const titlesOf = (heads) => Object.fromEntries(heads.map((head, at) => [`--h${at + 1}`, JSON.stringify(head.replace("#", ""))]));
/**
 * A table that scrolls sideways by itself. On phones a row is a block, and its cells have the titles of their columns above them.
 * A title that begins with `#` is of numbers, an empty one of buttons. Of a `short` one the cells say themselves what they are: on phones they stand in a line.
 * @param {{label: string, heads: string[], kind?: "short" | "", children?: any}} given
 */
export const Table = ({ label, heads, kind = "", children }) =>
  html`<div class=${`wide-table stacks ${kind}`} style=${titlesOf(heads)} tabindex="0" role="region" aria-label=${label}><table><thead><tr>${heads.map((head) => html`<th key=${head} class=${head.startsWith("#") ? "number" : undefined}>${head ? head.replace("#", "") : html`<span class="unseen">Actions</span>`}</th>`)}</tr></thead><tbody>${children}</tbody></table></div>`;
/** The way to a login from a page that is open to callers without one. */
export const LogIn = () => html`<button type="button" onClick=${() => { me.value = undefined; }}>Log in</button>`;
/** Whether the page was opened in a wide window: filters are folded elsewhere. */
export const isWide = matchMedia("(min-width: 821px)").matches;
/** The line of an error of the API. @param {{error: any}} given */
export const Failed = ({ error }) =>
  error ? html`<p class="bad" role="alert"><${Text} value=${error.message} />${error.remedy ? html`<br /><span class="dim"><${Text} value=${error.remedy} /></span>` : ""}</p>` : null;
/** Says that an answer of the API is still to come. @param {{of: {data?: any, error?: any}}} given */
export const Asking = ({ of }) => (of.data || of.error ? null : html`<p class="dim">Asking…</p>`);
/** Data as people read it: text as it is, the rest as JSON. @param {{value: any}} given */
export const Shown = ({ value }) => html`<pre tabindex="0"><${Text} value=${typeof value === "string" ? value : JSON.stringify(value, null, 2)} /></pre>`;
/** How many questions wait for people; a text with + where there are more. */
export const waiting = signal("");

/** What a search has found in a task, its words marked. @param {{of: any}} given */
export const Match = ({ of }) => html`<span class="under match"><span class="dim">${of.of}:</span> ${of.pieces.map((/** @type {string} */ piece, /** @type {number} */ place) => (place % 2 ? html`<mark>${piece}</mark>` : html`<${Text} value=${piece} />`))}</span>`;

/** Says that a search may have missed tasks. @param {{count: number}} given */
export const Unindexed = ({ count }) => (count ? html`<p class="dim" role="status">${count === 1 ? "The newest task is" : `The newest ${count.toLocaleString()} tasks are`} still being indexed: search again.</p>` : null);
