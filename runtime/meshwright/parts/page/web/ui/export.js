// @ts-check
/** A task as one file, JSON or HTML, that can be sent to others: the mesh redacts secrets, and contents can be left out. */
import { html } from "./vendor/preact.js";
import { ask } from "./dialog.js";
import { asked, may, read } from "./lib.js";

const TYPES = { html: "text/html", json: "application/json" };

/** @param {{id: string}} given */
export function Export({ id }) {
  if (!may("contents", "submitter")) return null;
  const save = () =>
    ask({
      title: "Save the task as a file",
      text: "What looks like a secret is redacted. Look at it all the same before you send it to others.",
      done: "It is saved",
      fields: [
        { name: "format", label: "Format", type: "select", options: [["html", "HTML, to read"], ["json", "JSON, for programs"]] },
        { name: "contents", label: "With what was asked, said and answered", type: "check", value: true },
      ],
      work: async ({ format, contents }) => {
        const type = TYPES[/** @type {"html" | "json"} */ (format)];
        const text = await read("GET", `/tasks/${id}/export?${asked({ contents })}`, undefined, type);
        const file = URL.createObjectURL(new Blob([text], { type }));
        Object.assign(document.createElement("a"), { href: file, download: `task-${id}.${format}` }).click();
        setTimeout(() => URL.revokeObjectURL(file), 10_000); // once the browser has read it
      },
    });
  return html`<button type="button" onClick=${save}>Save as a file…</button>`;
}
