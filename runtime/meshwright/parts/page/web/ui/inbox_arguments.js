// @ts-check
/** The approval of a call with other arguments: a dialog with a field for each, and the change of an earlier answer. */
import { html } from "./vendor/preact.js";
import { ask } from "./dialog.js";
import { Difference } from "./steps.js";
import { hasMark, visible } from "./unseen.js";

const LONG_CHARS = 60;

/** The schema of the arguments that an answer may have, if it may have any. @param {any} question */
export const changeable = (question) => (question.source ? undefined : question.answer_schema?.properties?.arguments);

/** @param {any} value */
const json = (value) => JSON.stringify(value, null, 2);
/** @param {any} one @param {any} other */
const same = (one, other) => JSON.stringify(Object.entries(one).sort()) === JSON.stringify(Object.entries(other).sort());

/** What a person changed of the arguments that are asked about. @param {{subject: any}} given */
export const Changed = ({ subject }) =>
  subject.changed_from ? html`<h2>Changed by ${subject.changed_by}</h2><${Difference} before=${json({ ...subject.arguments, ...subject.changed_from })} now=${json(subject.arguments)} />` : null;

/**
 * Ask for other arguments, and approve the call with them.
 * @param {any} question @param {(value: any) => Promise<any>} send
 */
export function changeArguments(question, send) {
  const before = question.subject.arguments;
  const fields = fieldsOf(question);
  return ask({
    title: `Other arguments for ${question.subject.tool}`,
    text: "The call runs with these arguments instead. It is asked about once more if another rule is for them, or if their effect is to be seen first.",
    yes: "Approve with these",
    done: "Approved with other arguments",
    fields: [...fields.map(({ field }) => field), { name: "reason", label: "Reason" }],
    work: async (given) => {
      const wanted = fields.map(({ name, field, read }) => [name, given[field.name] === field.value ? before[name] : read(given[field.name])]);
      const changed = fields[0]?.name === "" ? wanted[0][1] ?? before : Object.fromEntries(wanted.filter(([, value]) => value !== undefined));
      if (same(changed, before)) throw new Error("The arguments are those of the call: change some, or approve it");
      await send({ approve: true, arguments: changed, ...(given.reason ? { reason: given.reason } : {}) });
    },
  });
}

/**
 * A field of the dialog for each argument; the name "" is of all of them, as JSON.
 * @typedef {{name: string, field: import("./dialog.js").Field, read: (text: any) => any}} Argument
 * @param {any} question @returns {Argument[]}
 */
function fieldsOf(question) {
  const schema = changeable(question);
  const before = question.subject.arguments;
  const known = Object.entries(schema.properties ?? {});
  if (!known.length || Object.keys(before).some((name) => !(name in schema.properties))) return [asJson("", "Arguments", before, "a0")];
  return known.map(([name, one], at) => argument(name, resolved(one, question.answer_schema), before[name], `a${at}`, (schema.required ?? []).includes(name)));
}

/** @param {any} schema @param {any} root @returns {any} */
function resolved(schema, root) {
  const name = /^#\/\$defs\/([^/]+)$/.exec(schema?.$ref ?? "")?.[1];
  return name ? { ...resolved(root.$defs?.[name], root), ...schema, $ref: undefined } : (schema ?? {});
}

/** @param {string} name @param {any} schema @param {any} value @param {string} id @param {boolean} required @returns {Argument} */
function argument(name, schema, value, id, required) {
  const isNullable = (schema.anyOf ?? []).some((/** @type {any} */ one) => one.type === "null");
  const choices = (schema.anyOf ?? [schema]).filter((/** @type {any} */ one) => one.type !== "null");
  const { type, enum: options } = choices.length === 1 ? choices[0] : /** @type {any} */ ({});
  const none = isNullable ? null : undefined;
  const field = { name: id, label: name, hint: schema.description, value: value ?? "", isExact: true };
  if (options) {
    const texts = [...(isNullable || !required ? [none] : []), ...options].map((one) => [one === none ? "" : json(one), String(one ?? "none")]);
    return { name, field: { ...field, type: "select", options: texts, value: value === none ? "" : json(value) }, read: (text) => (text === "" ? none : JSON.parse(text)) };
  }
  if (type === "boolean" && !isNullable) return { name, field: { ...field, type: "check", value: value ?? false }, read: (isOn) => isOn };
  if (type === "number" || type === "integer") return { name, field: { ...field, type: "number", value: String(value ?? ""), required: required && !isNullable }, read: (text) => (text === "" ? none : Number(text)) };
  if (type !== "string") return asJson(name, name, value, id, schema.description);
  const shown = String(value ?? "");
  const read = (/** @type {string} */ text) => (text === "" && isNullable ? null : text);
  if (hasMark(shown)) return { name, field: { ...field, value: "", required: true, hint: "Hidden from you: write it whole." }, read };
  const isLong = shown.length > LONG_CHARS || shown.includes("\n");
  const hint = visible(shown) === shown ? field.hint : `It has characters that cannot be seen: ${visible(shown)}`;
  return { name, field: { ...field, hint, value: shown.replaceAll("\r\n", "\n"), type: isLong ? "area" : "text" }, read };
}

/** @param {string} name @param {string} label @param {any} value @param {string} id @param {string} [hint] @returns {Argument} */
function asJson(name, label, value, id, hint) {
  const read = (/** @type {string} */ text) => {
    if (!text.trim()) return undefined;
    try {
      return JSON.parse(text);
    } catch (/** @type {any} */ error) {
      throw new Error(`${label} is no JSON: ${error.message}`);
    }
  };
  return { name, field: { name: id, label: `${label} (JSON)`, type: "area", rows: name ? 4 : 8, value: value === undefined ? "" : json(value), hint, isExact: true }, read };
}
