// @ts-check
/** Forms of JSON schemas: a label and an input for each field of an object, and the object that was filled in. */
import { html } from "./vendor/preact.js";

/** Before the names of the inputs, so that a field may have the name of anything else in its form. */
const FIELD = "field ";
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

/** The inputs of a schema, but for some fields. @param {{schema: any, except?: string[]}} given */
export const Inputs = ({ schema, except }) => fieldsOf(schema, except).map((field) => html`<${Input} key=${field.name} field=${field} />`);

/** @param {{field: Field}} given */
function Input({ field: { name, title, kind, schema, required } }) {
  const known = { name: FIELD + name, required };
  const hint = schema.description ? html` <span class="dim">${schema.description}</span>` : null;
  const value = schema.default ?? undefined;
  if (kind === "check") return html`<label class="line"><input type="checkbox" name=${known.name} defaultChecked=${value} /> ${title}${hint}</label>`;
  const text = value === undefined || typeof value === "string" ? value : JSON.stringify(value);
  const control =
    kind === "choice"
      ? html`<select ...${known}>${value === undefined ? html`<option value=""></option>` : null}${(schema.enum ?? ("const" in schema ? [schema.const] : [true, false])).map((/** @type {any} */ one) => html`<option key=${String(one)} value=${JSON.stringify(one)} selected=${one === value}>${String(one)}</option>`)}</select>`
      : kind === "number"
        ? html`<input ...${known} type="number" step=${schema.type === "integer" ? 1 : "any"} min=${schema.minimum} max=${schema.maximum} defaultValue=${value} />`
        : kind === "text"
          ? html`<input ...${known} type="text" maxlength=${schema.maxLength} defaultValue=${text} />`
          : html`<textarea ...${known} rows="3" defaultValue=${value === undefined ? "" : JSON.stringify(value)}></textarea>`;
  return html`<label>${title}${kind === "json" ? " (JSON)" : ""}${hint} ${control}</label>`;
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

/** @param {string} title @param {string} text */
export function parsed(title, text) {
  try {
    return JSON.parse(text);
  } catch (/** @type {any} */ error) {
    throw new Error(`${title} is no JSON: ${error.message}`);
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
