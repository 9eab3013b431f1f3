// @ts-check
/** Work again on tasks, or cancel them, once it is said what that would do. */
import { html } from "./vendor/preact.js";
import { ask } from "./dialog.js";
import { call, notice } from "./lib.js";

const PAGE = 500;
const MOST_PAGES = 20;
const SHOWN = 6;

/** All items that a request changes, or would, page by page. @param {string} path @param {any} body */
async function pages(path, body) {
  const items = [];
  let cursor = /** @type {string | null} */ (null);
  for (let page = 0; page < MOST_PAGES; page += 1) {
    const found = await call("POST", path, { ...body, limit: PAGE, ...(cursor ? { cursor } : {}) });
    items.push(...found.items);
    cursor = found.cursor;
    if (!cursor) break;
  }
  return { items, isCut: cursor !== null };
}

/** Items by what is said of each, the most frequent first. @param {any[]} items @param {(item: any) => string} word @returns {[string, number][]} */
function counted(items, word) {
  /** @type {Map<string, number>} */
  const counts = new Map();
  for (const item of items) counts.set(word(item), (counts.get(word(item)) ?? 0) + 1);
  return [...counts].sort(([, one], [, other]) => other - one);
}

/** What a dry run has found. @param {{items: any[], isCut: boolean, note?: string}} given */
function Plan({ items, isCut, note }) {
  const refused = items.filter((item) => item.refused);
  const able = items.filter((item) => !item.refused);
  const why = (/** @type {any} */ item) => `${item.agent_id ?? "another agent"}${item.error ? `, ${item.error.type}` : ""}${item.begin ? `, from ${item.begin === "start" ? "the start" : `step ${item.steps_kept}`}` : ""}`;
  const list = (/** @type {[string, number][]} */ groups) => html`<ul>${groups.slice(0, SHOWN).map(([name, count]) => html`<li key=${name}>${count} × ${name}</li>`)}${groups.length > SHOWN ? html`<li class="dim">and others</li>` : null}</ul>`;
  return html`<p><b>${able.length}${isCut ? " or more" : ""}</b> ${able.length === 1 ? "task" : "tasks"}. Nothing is changed yet.</p>${list(counted(able, why))}${note && html`<p>${note}</p>`}
    ${refused.length ? html`<p>${refused.length} cannot be:</p>${list(counted(refused, (item) => item.refused.message))}` : null}`;
}

/** The filter, or all tasks where there is none. @param {Record<string, string>} wanted */
const meant = (wanted) => (Object.keys(wanted).length ? wanted : { all: true });

/** @param {Record<string, string>} wanted */
export async function retryAll(wanted) {
  await propose("/retry", wanted, { title: "Retry all that match", yes: "Retry", done: "worked on again" }, [
    { name: "begin", label: "Each begins", type: "select", options: [["", "as its fault needs it"], ["journal", "behind its finished steps, which are kept"], ["start", "at the start, and repeats all its steps"]] },
  ]);
}

/** @param {Record<string, string>} wanted */
export async function cancelAll(wanted) {
  await propose("/cancel", wanted, { title: "Cancel all that match", yes: "Cancel them", done: "asked to end", no: "Leave them", isDanger: true, note: "What they have done is not undone. Tasks that they delegated are cancelled too, and what is reserved for their calls is released." }, []);
}

/** @param {string} path @param {Record<string, string>} wanted @param {any} words @param {import("./dialog.js").Field[]} fields */
async function propose(path, wanted, { done, note, ...words }, fields) {
  /** @type {{items: any[], isCut: boolean} | null} */
  let plan = null;
  const body = meant(wanted);
  try {
    plan = await pages(path, { ...body, dry_run: true });
  } catch (/** @type {any} */ error) {
    await ask({ title: words.title, text: `${error.message} ${error.remedy ?? ""}`, yes: "Close", no: "" });
    return;
  }
  if (!plan.items.some((item) => !item.refused)) {
    await ask({ title: words.title, text: html`<${Plan} ...${plan} />`, yes: "Close", no: "" });
    return;
  }
  let [changed, rest] = [0, ""];
  const isDone = await ask({
    ...words,
    text: html`<${Plan} ...${plan} note=${note} />`,
    fields,
    work: async (given) => {
      const chosen = Object.fromEntries(Object.entries(given).filter(([, value]) => value));
      const found = await pages(path, { ...body, ...chosen });
      changed = found.items.filter((item) => !item.refused).length;
      rest = found.isCut ? "; more match: do it again for them" : "";
    },
  });
  if (isDone) notice.value = { text: `${changed} ${changed === 1 ? "task is" : "tasks are"} ${done}${rest}` };
}

const WAYS = { journal: "Keep its finished steps", start: "Start over" };

/** A plan of the mesh, or the line that says why there is none; none for a view that was left meanwhile. @param {string} path */
async function planOf(path) {
  const view = location.hash;
  const plan = await call("GET", path).catch((error) => {
    notice.value = { text: [error.message, error.remedy].filter(Boolean).join(" — "), bad: true };
  });
  return location.hash === view ? plan : null;
}

/** Cancel one task, once it is said what ends with it and what is not undone. @param {string} id */
export async function cancelOne(id) {
  const path = `/tasks/${id}/cancel`;
  const plan = await planOf(path);
  if (!plan) return;
  /** @type {any} */
  let task;
  const work = async () => {
    task = expectOpen(await call("POST", path));
  };
  const isDone = await ask({ title: "Cancel the task?", text: plan.text, yes: "Cancel it", no: "Leave it", isDanger: true, done: "It is asked to end", work });
  if (isDone && task.status === "cancelled") notice.value = { text: "It is cancelled" };
  else if (isDone && task.missing_agent) notice.value = { text: `It ends once its agent ${task.missing_agent} is back, or within seconds if no process has it` };
}

/** The task as it is after its cancel. Throws where it had ended by itself before. @param {any} task */
function expectOpen(task) {
  if (["succeeded", "failed", "timed_out"].includes(task.status)) throw new Error(`It had ended before: ${task.status.replace("_", " ")}`);
  return task;
}

/** Work again on one task, once it is said which steps each way keeps and repeats, and what they cost. @param {string} id */
export async function retryOne(id) {
  const plan = await planOf(`/tasks/${id}/retry`);
  if (!plan) return;
  const usual = plan.ways[0].begin;
  await ask({
    title: "Retry the task",
    text: plan.error ? html`<p class="dim">It failed by ${plan.error.type}. It keeps its id, and gets another outcome.</p>` : undefined,
    yes: "Retry",
    done: "It is worked on again",
    fields: [{ name: "begin", label: "Which steps run again", type: "radios", value: usual, options: plan.ways.map((/** @type {any} */ way) => [way.begin, WAYS[/** @type {"start"} */ (way.begin)], way.text, way.refused ? "refused" : ""]) }],
    work: ({ begin }) => call("POST", `/tasks/${id}/retry`, { begin: begin === usual ? null : begin }),
  });
}
