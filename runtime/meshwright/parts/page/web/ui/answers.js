// @ts-check
/** Answers on their way: typed texts, and the questions that were answered in this browser. */
import { endTyping } from "./keys.js";

/** The ids of questions that were answered here: the next takes their place. @type {Set<string>} */
export const settledHere = new Set();
/** What was typed and is not sent yet, by the ids of questions. @type {Map<string, Record<string, string>>} */
export const drafts = new Map();
/** Keeps a typed text. @param {any} question @param {string} name @param {string} text */
export const keep = (question, name, text) => void drafts.set(question.id, { ...drafts.get(question.id), [name]: text });
/** Whether the buttons of a question are off: it was shown a moment ago, or has ended. @param {any} question */
export const isOff = (question) => question.isLive === false;

/** Notes that a person was done with a question here. @param {any} question */
export function settle(question) {
  settledHere.add(question.id);
  drafts.delete(question.id);
  endTyping();
}
