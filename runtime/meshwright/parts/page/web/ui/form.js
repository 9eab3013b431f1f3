// @ts-check
/** Forms of JSON schemas: a label and an input for each field of an object, and the object that was filled in. */
import { html } from "./vendor/preact.js";
import { Failed } from "./lib.js";
import { hasMark, visible } from "./unseen.js";

/** Before the names of the inputs, so that a field may have the name of anything else in its form. */
const FIELD = "field ";
const LONG_CHARS = 60;
/** A text that may be longer has several lines. */
const MAX_LINE_CHARS = 200;
/** @typedef {{name: string, title: string, kind: string, schema: any, required: boolean}} Field */

/** A part of a schema without its reference, and without the null that it may be instead. @param {any} schema @param {any} root @param {number} [depth] @returns {any} */
function plain(schema, root, depth = 0) {
  if (schema === null || typeof schema !== "object" || depth > 20) return {};
  const { $ref, anyOf, ...beside } = schema;
  const names = typeof $ref === "string" ? $ref.split("/").slice(1) : [];
  const target = names.reduce((node, name) => node?.[name.replaceAll("~1", "/").replaceAll("~0", "~")], root);
  if ($ref) return { ...plain(target, root, depth + 1), ...beside };
  const others = Array.isArray(anyOf) ? anyOf.filter((one) => one?.type !== "null") : [];
  if (others.length === 1) return { ...plain(others[0], root, depth + 1), ...beside, isNullable: others.length < anyOf.length };
  return schema;
}

/** How a field is asked for; json for what is nested or odd. @param {any} schema @param {boolean} required */
function kindOf(schema, required) {
  const types = [schema.type].flat().filter((type) => type !== "null");
  const choices = schema.enum ?? ("const" in schema ? [schema.const] : null);
  if (choices) return choices.every((/** @type {any} */ one) => one === null || typeof one !== "object") ? "choice" : "json";
  if (types.length !== 1 || schema.anyOf || schema.oneOf || schema.allOf) return "json";
  if (types[0] === "boolean") return typeof schema.default === "boolean" || (required && !schema.isNullable) ? "check" : "choice";
  return { string: "text", number: "number", integer: "number" }[/** @type {"string"} */ (types[0])] ?? "json";
}

/** The fields of an object's schema. @param {any} schema @param {string[]} [except] @returns {Field[]} */
function fieldsOf(schema, except = []) {
  const whole = plain(schema, schema);
  return Object.entries(whole.properties ?? {}).filter(([name]) => !except.includes(name)).map(([name, given]) => {
    const field = plain(given, schema);
    const required = (whole.required ?? []).includes(name);
    return { name, title: field.title ?? name, kind: kindOf(field, required), schema: field, required };
  });
}

/** Whether a schema is of an object, each field of which has an input. @param {any} schema */
export function isPlain(schema) {
  const fields = fieldsOf(schema);
  return fields.length > 0 && fields.every(({ kind }) => kind !== "json");
}

/** The text of a value in its control. @param {Field} field @param {any} value */
const textOf = ({ kind }, value) => (value === undefined || value === null ? "" : kind !== "text" ? JSON.stringify(value, null, 2) : typeof value === "string" ? value.replaceAll("\r\n", "\n") : JSON.stringify(value));

/** The inputs of a schema, but for some fields; with the values of an object that is changed, and its error beside its field. @param {{schema: any, except?: string[], before?: any, error?: any}} given */
export const Inputs = ({ schema, except, before, error }) =>
  fieldsOf(schema, except).map((field) => {
    const input = html`<${Input} key=${field.name} field=${field} before=${before} />`;
    return before ? html`<div key=${field.name}>${input}${error?.of === field.name ? html`<${Failed} error=${error} />` : null}</div>` : input;
  });

/** @param {{field: Field, before?: any}} given */
function Input({ field, before }) {
  const { name, title, kind, schema } = field;
  const value = before?.[name] ?? schema.default ?? undefined;
  const isHidden = Boolean(before) && typeof value === "string" && hasMark(value);
  const text = isHidden ? "" : textOf(field, value);
  // A text that is changed may be empty.
  const known = { name: FIELD + name, required: isHidden || (field.required && !schema.isNullable && !(before && kind === "text")) };
  const note = isHidden ? "Hidden from you: write it whole." : before && visible(text) !== text ? `It has characters that cannot be seen: ${visible(text)}` : schema.description;
  const isOptional = !field.required && !before;
  const hint = html`${isOptional && kind !== "check" ? html` <span class="dim">(optional)</span>` : null}${note ? html` <span class="dim hint">${note}</span>` : null}`;
  if (kind === "check") return html`<label class="line"><input type="checkbox" name=${known.name} defaultChecked=${value} /> ${title}${hint}</label>`;
  const control =
    kind === "choice"
      ? html`<select ...${known}>${value === undefined || schema.isNullable ? html`<option value=""></option>` : null}${(schema.enum ?? ("const" in schema ? [schema.const] : [true, false])).map((/** @type {any} */ one) => html`<option key=${String(one)} value=${JSON.stringify(one)} selected=${one === value}>${String(one)}</option>`)}</select>`
      : kind === "number"
        ? html`<input ...${known} type="number" step=${schema.type === "integer" ? 1 : "any"} min=${schema.minimum} max=${schema.maximum} defaultValue=${value} />`
        : kind === "text" && !(before && (text.length > LONG_CHARS || text.includes("\n"))) && !(schema.maxLength > MAX_LINE_CHARS)
          ? html`<input ...${known} type="text" maxlength=${schema.maxLength} defaultValue=${text} />`
          : html`<textarea ...${known} rows="3" defaultValue=${text}></textarea>`;
  return html`<label><span>${title}${kind === "json" ? " (JSON)" : ""}${hint}</span> ${control}</label>`;
}

/** An object with what was changed in its inputs. Throws for a field that is no JSON. @param {any} schema @param {FormData} given @param {any} before */
export function changed(schema, given, before) {
  const value = { ...before };
  for (const field of fieldsOf(schema)) {
    const { name, title, kind, schema: own } = field;
    const known = before[name] ?? own.default;
    const text = String(given.get(FIELD + name) ?? "");
    if (kind === "check" ? given.has(FIELD + name) === Boolean(known) : text === textOf(field, known)) continue;
    if (kind === "check") value[name] = !known;
    else if (text === "" && own.isNullable) value[name] = null;
    else if (kind === "text") value[name] = text;
    else value[name] = text.trim() === "" ? undefined : kind === "number" ? Number(text) : parsed(title, text, name);
  }
  return value;
}

/** The object that was filled in. Throws for a field that is no JSON. @param {any} schema @param {FormData} given @param {string[]} [except] */
export function filled(schema, given, except) {
  /** @type {Record<string, any>} */
  const value = {};
  for (const { name, title, kind } of fieldsOf(schema, except)) {
    const text = String(given.get(FIELD + name) ?? "");
    if (kind === "check") value[name] = given.has(FIELD + name);
    else if (text.trim() !== "") value[name] = kind === "text" ? text : kind === "number" ? Number(text) : parsed(title, text);
  }
  return value;
}

/** @param {string} title @param {string} text @param {string} [of] */
export function parsed(title, text, of) {
  try {
    return JSON.parse(text);
  } catch (/** @type {any} */ error) {
    throw Object.assign(new Error(`${title} is no JSON: ${error.message}`), { of });
  }
}

/** An answer as the schema wants it: text, or the JSON that it is. @param {any} schema @param {string} text */
export function worded(schema, text) {
  if (!schema || schema.type === "string") return text;
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}
