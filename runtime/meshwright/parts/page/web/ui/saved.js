// @ts-check
/** Filters with names, which this browser keeps for its caller: what is looked for by name alone, no words of contents. */
import { html, signal } from "./vendor/preact.js";
import { ask } from "./dialog.js";
import { asked, me, to } from "./lib.js";

const MOST = 20;
const UNSAVED = ["text"]; // contents
/** @typedef {{name: string, query: string}} Saved */
const written = signal(0);

/** Where those of the caller are. @param {string} view */
const placeOf = (view) => `filters ${view} ${me.value.tenant_id} ${me.value.name}`;

/** @param {string} view @returns {Saved[]} */
function read(view) {
  try {
    const items = JSON.parse(localStorage.getItem(placeOf(view)) ?? "[]");
    return Array.isArray(items) ? items.filter((one) => typeof one?.name === "string" && typeof one.query === "string") : [];
  } catch {
    return []; // another program's, or none may be kept
  }
}

/** @param {string} view @param {Saved[]} items */
function write(view, items) {
  try {
    localStorage.setItem(placeOf(view), JSON.stringify(items.slice(-MOST)));
  } catch {
    throw new Error("This browser keeps nothing for pages: allow it to store data");
  }
  written.value += 1;
}

/** The saved filters of a view, and the way to save the one that is shown. @param {{view: string, wanted: Record<string, string>}} given */
export function SavedFilters({ view, wanted }) {
  void written.value;
  const items = read(view);
  const query = asked(Object.fromEntries(Object.entries(wanted).filter(([name]) => !UNSAVED.includes(name))));
  const shown = items.find((one) => one.query === query);
  const save = () =>
    ask({
      title: "Save this filter",
      text: `This browser keeps it: ${query.replaceAll("&", ", ")}${wanted.text ? ". The words are not kept." : ""}`,
      yes: "Save",
      done: "The filter is saved",
      fields: [{ name: "name", label: "Name", required: true }],
      work: async ({ name }) => write(view, [...read(view).filter((one) => one.name !== name), { name, query }]),
    });
  if (!items.length && !query) return null;
  return html`<nav class="bar" aria-label="Saved filters">${items.map((one) => html`<a key=${one.name} href=${`${to(view)}?${one.query}`} aria-current=${one === shown ? "true" : undefined}>${one.name}</a>`)}
    ${shown ? html`<button type="button" aria-label=${`Remove the filter ${shown.name}`} onClick=${() => write(view, read(view).filter((one) => one.name !== shown.name))}>Remove</button>` : query ? html`<button type="button" onClick=${save}>Save this filter…</button>` : null}</nav>`;
}
