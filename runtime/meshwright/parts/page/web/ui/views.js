// @ts-check
/** The views of the page, each of which is loaded when it is first opened. */
import { html, useEffect, useState } from "./vendor/preact.js";
import { call, Failed, slow } from "./lib.js";

/**
 * A view: its module, whose default export shows it, its title in the side bar and the palette, and its group.
 * @typedef {{path: string, title: string, group: string}} View
 */

/** The views that are loaded, by the paths of their modules. @type {Map<string, (given: any) => any>} */
const loaded = new Map();

/** Loads a view. @param {string} path @param {string} title */
export async function load(path, title) {
  const { default: view } = loaded.has(path) ? {} : await import(path).catch(explain);
  if (loaded.has(path)) return;
  loaded.set(path, (given) => {
    try {
      return view(given);
    } catch (/** @type {any} */ error) {
      return html`<h1>${title}</h1><p class="bad" role="alert">This view has failed: ${error.message}</p>`;
    }
  });
}

/** Throws why a module was not loaded: the mesh may be away, or want a login. @param {any} error */
async function explain(error) {
  await call("GET", "/me");
  throw error;
}

/** A view, once it is loaded; all but its path is passed on to it. @param {{path: string, title?: string, [name: string]: any}} given */
export function Loaded({ path, title = "", ...given }) {
  const [, rerender] = useState(false);
  const [error, setError] = useState(/** @type {any} */ (null));
  useEffect(() => {
    load(path, title).then(() => rerender(true), setError);
  }, [slow.value]); // and again when the mesh is back
  const View = loaded.get(path);
  if (View) return html`<${View} ...${given} />`;
  if (!error) return html`<p class="dim">Loading…</p>`;
  // A browser may remember that a module has failed; and the mesh may have another version by now.
  const reload = () => call("GET", "/me").then(() => location.reload(), setError);
  return html`${title ? html`<h1>${title}</h1>` : null}<${Failed} error=${{ message: `The view ${title} could not be loaded: ${error.message}`, remedy: error.remedy }} /><p class="bar"><button type="button" onClick=${reload}>Load the page again</button></p>`;
}
