// @ts-check
/** Questions to people: their kinds, their words, and how an answer is sent. */
import { signal } from "./vendor/preact.js";
import { settle, settledHere } from "./answers.js";
import { isMoney } from "./inbox_money.js";
import { act, call } from "./lib.js";

const NOT_NOW_MS = 3_600_000;
/** Until when questions are put off in this browser, by their ids, in milliseconds. */
export const later = signal(/** @type {Record<string, number>} */ (JSON.parse(sessionStorage.getItem("later") ?? "{}")));

/** Whether a schema is of an answer that approves or denies. @param {any} schema */
export const takesApproval = (schema) => schema?.properties?.approve?.type === "boolean";
/** Sends an answer to what was shown: the mesh refuses it for a question that is another by now. @param {any} question @param {any} value */
export async function send(question, value) {
  const digest = question.digest ?? "";
  await (question.source
    ? call("POST", "/inbox/answer", { id: question.id, value, digest }).then(({ items }) => {
        const refused = items[0]?.refused;
        if (refused || !items.length) throw Object.assign(new Error(refused?.message ?? "It is open no longer"), { status: ["Conflict", "NotFound", undefined].includes(refused?.type) ? 409 : 422 });
      })
    : call("POST", `/tasks/${question.task_id}/answer`, { key: question.wait_id, value, digest, ...(question.anyway ? { anyway: true } : {}) }));
  settle(question);
}

/** Callers as a text; `*` is everybody who may answer. @param {string[]} callers */
export const names = (callers) => callers.map((name) => (name === "*" ? "everybody" : name)).join(", ");

/** Whether an answer came too late: another caller has given one, or the question is gone. @param {any} error */
export const isSettled = (error) => (error.status === 409 || error.status === 404) && !["digest", "anyway"].includes(error.field);

/** Sends an answer and says how it ended. @param {any} question @param {any} value @param {string} done */
export const answer = (question, value, done) =>
  act(done, async () => {
    try {
      await send(question, value);
    } catch (/** @type {any} */ error) {
      if (error.field === "anyway") throw Object.assign(new Error(`Not sent: ${error.message}`), { isSoft: true });
      if (!isSettled(error)) throw error;
      throw Object.assign(new Error(`It was settled meanwhile. ${error.message}`), { isSoft: true, remedy: error.remedy });
    }
  });

/** Hide a question in this browser for an hour, or until a time. @param {any} question @param {number} [until] */
export function postpone(question, until) {
  later.value = { ...later.value, [question.id]: until ?? Date.now() + NOT_NOW_MS };
  sessionStorage.setItem("later", JSON.stringify(later.value));
  settledHere.add(question.id);
}

/** Whether a question is approved or denied. @param {any} question */
export const isDecision = (question) => takesApproval(question.answer_schema) && !isMoney(question);
/** Whether a crash or a deploy left a step in doubt, which is answered by itself. @param {any} question */
export const isDoubt = (question) => !question.source && /\/0\.[^/]*$/.test(question.wait_id);
/** When a question ends without an answer. @param {any} question */
const endOf = ({ expires_at: time }) => (time ? Date.parse(time) : Infinity);
/** Doubts first, then what expires soonest, then the oldest. @param {any[]} items */
export const byHaste = (items) => items.sort((one, other) => Number(isDoubt(other)) - Number(isDoubt(one)) || endOf(one) - endOf(other) || 0);
/** Whether one answer may be for this question and others: all of it is seen. @param {any} question */
export const isForMany = (question) => isDecision(question) && !isDoubt(question) && !question.subject?.hidden_parts?.lines;
/** By whom and what for a question asks, as the mesh sees it. @param {any} question */
export const kindOf = (question) => (question.task_id ? `${question.agent_id}: ${question.subject?.kind} ${question.subject?.tool}` : question.wait_id.replace(/\/[^/]*$/, ""));

/** The kind of a question in a word. @param {any} question */
export function wordOf(question) {
  if (!question.task_id && !question.source) return "model";
  if (isMoney(question)) return "money";
  if (isDoubt(question)) return "in doubt";
  return isDecision(question) ? "approval" : "question";
}

/** Arguments in a line: a text that comes first speaks for itself, the others have their names. @param {any} given */
const inLine = (given) => Object.entries(given ?? {}).map(([name, value], at) => (typeof value === "string" ? `${at ? `${name} ` : ""}${value}` : `${name} ${JSON.stringify(value)}`)).join(", ");

/** The tool of a call that is asked about. @param {any} question @returns {string} */
const toolOf = (question) => (isDecision(question) && !isDoubt(question) ? question.subject?.tool ?? "" : "");

/** A question in one line: the arguments of a call, the step in doubt, the budget, else the question itself. @param {any} question */
export function titleOf(question) {
  const { arguments: given, kind, request, steps, budget, of } = question.subject ?? {};
  if (toolOf(question)) return [toolOf(question), inLine(given)].filter(Boolean).join(": ");
  if (isDoubt(question) && kind) return steps ? `Start over, and repeat ${steps.join(", ")}` : [kind.replace(/^tool /, ""), inLine(request)].filter(Boolean).join(": ");
  return isMoney(question) ? `Budget ${budget}${of && of !== budget ? ` of ${of}` : ""}` : sentence(question).trim();
}

/** The question without its effect, which stands below it. @param {any} question */
export const sentence = (question) => question.question.split("\nIts effect:\n")[0];

