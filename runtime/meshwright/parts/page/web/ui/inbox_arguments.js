// @ts-check
/** The approval of a call with other arguments: a field for each, and the change of an earlier answer. */
import { html, useEffect, useRef, useState } from "./vendor/preact.js";
import { Difference } from "./diff.js";
import { changed, Inputs } from "./form.js";
import { Failed, notice, touch } from "./lib.js";
import { send } from "./questions.js";

/** The schema of the arguments that an answer may have, if it may have any. @param {any} question */
export const changeable = (question) => (question.source ? undefined : question.answer_schema?.properties?.arguments);

/** @param {any} value */
const json = (value) => JSON.stringify(value, null, 2);
/** @param {any} one @param {any} other */
const same = (one, other) => JSON.stringify(Object.entries(one).sort()) === JSON.stringify(Object.entries(other).sort());

/** What a person changed of the arguments that are asked about. @param {{subject: any}} given */
export const Changed = ({ subject }) =>
  subject.changed_from ? html`<h2>Changed by ${subject.changed_by}</h2><${Difference} before=${json({ ...subject.arguments, ...subject.changed_from })} now=${json(subject.arguments)} />` : null;

/** The id of the form, whose buttons stand in the footer of the question. */
export const FORM = "arguments";
/** Of arguments that have no fields of their own: one for all of them. */
const WHOLE = { properties: { arguments: {} } };

/**
 * The arguments of a call as fields, in their place; the call is approved with what they say then.
 * @param {{question: any, close: () => void}} given
 */
export function EditedArguments({ question, close }) {
  const form = useRef(/** @type {any} */ (null));
  const [error, setError] = useState(/** @type {any} */ (null));
  const known = question.subject.arguments;
  const { properties = {}, ...schema } = changeable(question);
  const hasFields = Object.keys(properties).length > 0 && Object.keys(known).every((name) => name in properties);
  const [fields, before] = hasFields ? [{ ...schema, properties, $defs: question.answer_schema.$defs }, known] : [WHOLE, { arguments: known }];
  useEffect(() => form.current.querySelector("input, select, textarea")?.focus(), []);
  const approve = async (/** @type {any} */ event) => {
    event.preventDefault();
    try {
      const given = new FormData(event.target);
      const now = changed(fields, given, before);
      const wanted = hasFields ? now : now.arguments ?? known;
      if (same(wanted, known)) throw new Error("The arguments are those of the call: change some, or approve it");
      const reason = String(given.get("reason") ?? "").trim();
      await send(question, { approve: true, arguments: wanted, ...(reason ? { reason } : {}) });
      notice.value = { text: "Approved with other arguments" };
      close();
      touch();
    } catch (/** @type {any} */ problem) {
      setError(Object.assign(problem, { of: problem.of ?? problem.field?.split(".").find((/** @type {string} */ part) => part in fields.properties) }));
    }
  };
  return html`<form id=${FORM} class="stack" aria-label="Arguments" ref=${form} onSubmit=${approve}>
    <p class="dim">The call runs with these arguments instead. It is asked about once more if another rule is for them, or if their effect is to be seen first.</p>
    <${Inputs} schema=${fields} before=${before} error=${error} />
    ${error?.of in fields.properties ? null : html`<${Failed} error=${error} />`}
  </form>`;
}
