// @ts-check
/** Talk with an agent, or give the mesh a task by a form. */
import { html, useEffect, useRef, useState } from "./vendor/preact.js";
import { act, Asking, blocksOf, call, dollars, Failed, headers, may, route, Shown, slow, span, Status, TaskLink, to, useData } from "./lib.js";
import { Written } from "./markdown.js";
import { Text } from "./unseen.js";
import { Loaded } from "./views.js";

const SHOWN = 50;

/** The view. */
export default function TryIt() {
  const isForm = route.value.query.get("as") === "form";
  const { data, error } = useData(may("viewer") ? "/agents" : null);
  const agents = (data?.items ?? []).filter((/** @type {any} */ agent) => agent.kind !== "system");
  const link = (/** @type {string} */ as, /** @type {string} */ title) => html`<a href=${to("try", as ? { as } : {})} aria-current=${isForm === (as === "form") ? "true" : undefined}>${title}</a>`;
  return html`<h1>Try it <span class="dim">${isForm ? "" : "ask an agent; the answer comes here"}</span></h1>
    <nav class="bar" aria-label="How">${link("", "Talk")} ${link("form", "A task by a form")}</nav>
    <${Failed} error=${error} />
    ${may("viewer") && !data ? html`<${Asking} of=${{ error }} />` : isForm ? html`<${Loaded} path="./try_form.js" agents=${agents} />` : html`<${Talk} agents=${agents} />`}`;
}

/** The agent to choose, which stays chosen though it goes away; a name to type where the caller sees no list. @param {{agents: any[], isOptional?: boolean}} given */
export function ChooseAgent({ agents, isOptional = false }) {
  const [chosen, choose] = useState("");
  if (!may("viewer")) return html`<label>Agent <input name="agent" required=${!isOptional} /></label>`;
  const names = agents.map((agent) => agent.agent_id);
  const value = chosen || (isOptional ? "" : names[0]);
  if (value && value !== chosen) choose(value);
  return html`<label>Agent <select name="agent" required=${!isOptional} value=${value} onChange=${(/** @type {any} */ event) => choose(event.target.value)}>${isOptional ? html`<option value="">the best for the capability</option>` : null}${value && !names.includes(value) ? html`<option value=${value}>${value} (gone)</option>` : null}${names.map((name) => html`<option key=${name} value=${name}>${name}</option>`)}</select></label>`;
}

const STARTERS = ["Say in one sentence what you are for.", "Name three things that I could ask you.", "What do you need to know to begin?"];

/** Requests to click, for who has none of his own yet; they need no more than a text. @param {{agents: any[], send: (agent: string, text: string) => void}} given */
function Starters({ agents, send }) {
  const able = agents.filter((agent) => agent.healthy && agent.capabilities.length && agent.capabilities.every((/** @type {any} */ one) => (one.input_schema?.required ?? []).every((/** @type {string} */ name) => name === "text")));
  const { data: status } = useData(may("viewer") ? "/status" : null, slow);
  const { data: figures } = useData(may("viewer") ? "/figures" : null, slow);
  const away = (figures?.models ?? []).filter((/** @type {any} */ model) => !model.well);
  if (!agents.length) return may("viewer") ? html`<p class="empty">No agent is here yet. <code>mesh init</code> writes one, <code>mesh up</code> in its folder runs it.</p>` : null;
  return html`${status?.model === "offline" ? html`<p class="dim">No provider's key is set: the built-in offline model answers. It costs nothing, quotes what it is given and knows nothing itself. With a key such as <code>ANTHROPIC_API_KEY</code> a real model does, after <code>mesh up</code> has started again.</p>` : null}
    ${away.length && away.length === figures.models.length ? html`<p class="bad" role="alert">No model can answer: ${away[0].reason || "all are left alone"}. Tasks wait until one does; <a href=${to("mesh")}>Mesh</a> says which, and <code>mesh models test</code> asks them at once.</p>` : null}
    ${able.length ? html`<ul class="starters" aria-label="To begin with">${STARTERS.map((text, at) => {
      const agent = able[at % able.length].agent_id;
      return html`<li key=${text}><button type="button" title="Submits this as a task" onClick=${() => send(agent, text)}><b>${text}</b> <span class="dim">asks ${agent}</span></button></li>`;
    })}</ul>` : null}`;
}

/** A conversation: the tasks of a thread, of which the last may still be written. @param {{agents: any[]}} given */
function Talk({ agents }) {
  const [sent, setSent] = useState(/** @type {string[]} */ ([]));
  const [isSending, setSending] = useState(false);
  const given = useRef(route.value.query.get("thread"));
  const thread = route.value.query.get("thread") ?? "";
  const { data, error } = useData(given.current && given.current === thread && may("viewer") ? `/tasks?thread_id=${encodeURIComponent(thread)}&limit=${SHOWN}` : null);
  const earlier = (data?.items ?? []).filter((/** @type {any} */ item) => !item.parent_task_id).map((/** @type {any} */ item) => item.task_id).reverse();
  const turns = [...earlier, ...sent.filter((id) => !earlier.includes(id))];
  const give = async (/** @type {any} */ agent_id, /** @type {any} */ text) => {
    const thread_id = thread || `page-${crypto.randomUUID().slice(0, 18)}`;
    setSending(true);
    const isSent = await act("Sent", async () => {
      const made = await call("POST", "/tasks", { agent_id, payload: { text }, thread_id });
      setSent((before) => [...before, made.task_id]);
      if (!thread) location.hash = to("try", { thread: thread_id });
    });
    setSending(false);
    return isSent;
  };
  const send = async (/** @type {any} */ event) => {
    event.preventDefault();
    const form = event.target;
    const fields = new FormData(form);
    if (await give(fields.get("agent"), fields.get("text"))) form.querySelector("textarea").value = "";
    form.querySelector("textarea").focus();
  };
  const keys = (/** @type {any} */ event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    event.target.form.requestSubmit();
  };
  return html`<${Failed} error=${error} />
    ${thread || turns.length || isSending ? null : html`<${Starters} agents=${agents} send=${give} />`}
    <ol class="plain talk" aria-label="Conversation" aria-live="polite">${turns.map((id) => html`<li key=${id}><${Turn} id=${id} /></li>`)}</ol>
    <form class="stack wider" onSubmit=${send}>
      <${ChooseAgent} agents=${agents} />
      <label>Request <textarea name="text" rows="3" required onKeyDown=${keys}></textarea></label>
      <p class="bar"><button class="yes" title="Submits a task" disabled=${isSending}>Send</button> ${thread ? html`<a href=${to("try")} onClick=${() => { setSent([]); given.current = null; }}>Begin another conversation</a>` : html`<span class="dim">Enter sends, Shift and Enter begin a line. Agents of one conversation know what was said before.</span>`}</p>
    </form>`;
}

/** One request with its answer, as it is written. @param {{id: string}} given */
function Turn({ id }) {
  const { data, error } = useData(`/tasks/${id}`);
  const written = useWritten(id, data && !data.outcome);
  const asks = Boolean(data?.waits.some((/** @type {any} */ wait) => wait.kind === "person" || wait.kind === "money")) && may("contents");
  const { data: inbox } = useData(asks ? `/inbox?task_id=${id}` : null);
  if (!data) return html`<${Failed} error=${error} />${error ? null : html`<p class="dim">Asking…</p>`}`;
  const { outcome } = data;
  const last = data.attempts.at(-1);
  return html`<div aria-busy=${!outcome}><p class="said">${data.payload.text ?? JSON.stringify(data.payload)}</p>
    ${outcome?.result ? html`<${Written} value=${outcome.result.text ?? outcome.result} under=${1} />` : written && !outcome ? html`<${Shown} value=${written} />` : null}
    ${outcome?.error ? html`<p class="bad">${outcome.error.type}: <${Text} value=${outcome.error.message} />${outcome.error.remedy ? html`<br /><span class="dim"><${Text} value=${outcome.error.remedy} /></span>` : null}</p>` : null}
    ${asks ? null : data.waits.map((/** @type {any} */ wait) => html`<p key=${wait.wait_id} class="wait">It waits for ${wait.kind === "provider" ? html`<a href=${to("mesh")}>a model</a>` : wait.kind}: <${Text} value=${wait.reason} /></p>`)}
    ${(inbox?.items ?? []).map((/** @type {any} */ question) => html`<${Loaded} key=${question.id} path="./inbox_item.js" question=${question} />`)}
    <p class="line dim"><${Status} status=${data.status} /> ${last?.agent_id ?? ""} ${outcome ? `${dollars(outcome.cost_usd)}, ${span(outcome.duration_ms / 1000)}` : ""} <${TaskLink} id=${id} /></p></div>`;
}

/** What a model has written so far for a task that is open. @param {string} id @param {boolean} isOpen */
function useWritten(id, isOpen) {
  const [text, setText] = useState("");
  useEffect(() => {
    if (!isOpen) return undefined;
    const ended = new AbortController();
    let whole = "";
    let step = "";
    let frame = 0;
    const paint = () => {
      frame = 0;
      setText(whole);
    };
    const read = async () => {
      const answer = await fetch(`/tasks/${id}/events`, { headers: { ...headers(), Accept: "text/event-stream" }, signal: ended.signal });
      if (!answer.ok || !answer.body || answer.status === 204) return;
      for await (const { event } of blocksOf(answer)) {
        if (event?.event_type !== "model.delta") continue;
        const { payload } = event;
        const now = `${payload.attempt}/${payload.step}`;
        if (payload.restart || now !== step) whole = "";
        step = now;
        whole += payload.text ?? "";
        frame ||= requestAnimationFrame(paint);
      }
    };
    read().catch(() => {}); // without the pieces the answer comes as a whole
    return () => {
      ended.abort();
      cancelAnimationFrame(frame);
    };
  }, [id, isOpen]);
  return text;
}
