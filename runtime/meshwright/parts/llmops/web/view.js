// @ts-check
/** Registered prompts: versions, labels, what differs, and a place to try two of them side by side. */
import { html, useEffect, useState } from "/ui/vendor/preact.js";
import { act, Ago, asked, Asking, call, dollars, Failed, may, notice, route, Shown, span, Table, TaskLink, to, useData } from "/ui/lib.js";
import { ask } from "/ui/dialog.js";
import { Difference } from "/ui/diff.js";

/** The view: all prompts, or one. */
export default function PromptsPage() {
  return route.value.id ? html`<${Versions} name=${route.value.id} />` : html`<${All} />`;
}

function All() {
  const { data, error } = useData("/v1/prompts?limit=500");
  return html`<h1>Prompts</h1><${Failed} error=${error} /><${Asking} of=${{ data, error }} />
    <p class="dim">Prompt files are the source; a version here with the label <code>production</code> takes the place of its file.</p>
    ${data?.items.length === 0 ? html`<p class="empty">No prompt is registered: agents use those of their files and code. <code>mesh registry add FILE.prompt</code> registers one.</p>` : null}
    ${data?.items.length ? html`<${Table} label="Prompts" heads=${["Prompt", "#Newest", "Labels", "Author", "When", "Message"]}>${data.items.map((/** @type {any} */ one) => html`<tr key=${one.name}><td><a href=${to(`prompts/${one.name}`)}>${one.name}</a></td><td class="number">${one.version}</td><td><${Labels} labels=${one.labels} /></td><td>${one.author}</td><td><${Ago} time=${one.created_at} /></td><td class="texts">${one.message}</td></tr>`)}<//>` : null}`;
}

/** @param {{labels: Record<string, number>}} given */
const Labels = ({ labels }) => html`${Object.entries(labels).map(([label, version]) => html`<span class="tag" key=${label}>${label} v${version}</span> `)}`;

/** @param {{name: string}} given */
function Versions({ name }) {
  const path = `/v1/prompts/${encodeURIComponent(name)}`;
  const { data, error } = useData(`${path}/versions?limit=200`);
  const shown = Number(route.value.query.get("version")) || data?.items[0]?.version;
  const { data: read } = useData(shown && may("contents", "operator") ? `${path}?version=${shown}` : null);
  const [version, setVersion] = useState(/** @type {any} */ (null));
  useEffect(() => {
    if (read) setVersion(read); // the one before stays until then, and with it what is tried
  }, [read]);
  const { data: before } = useData(shown > 1 && may("contents", "operator") ? `${path}?version=${shown - 1}` : null);
  const label = (/** @type {number} */ number) =>
    ask({
      title: `Label version ${number}`,
      text: "Agents use the version that has the label production.",
      fields: [{ name: "label", label: "Label", value: "production", required: true }],
      work: async ({ label: given }) => {
        await call("PUT", `${path}/labels/${encodeURIComponent(given)}`, { version: number });
        notice.value = { text: `${given} is v${number}` };
      },
    });
  if (!data) return html`<h1>Prompt ${name}</h1><${Failed} error=${error} />`;
  return html`<h1>Prompt ${name}</h1><${Failed} error=${error} />
    <${Table} label="Versions" heads=${["Version", "Digest", "Labels", "Author", "When", "Message", ""]}>${data.items.map((/** @type {any} */ one) => html`<tr key=${one.version}><td><a href=${to(`prompts/${name}`, { version: one.version })} aria-current=${one.version === shown ? "true" : undefined}>v${one.version}</a></td>
      <td><a href=${to("tasks", { prompt: `${name}@${one.digest.slice(0, 12)}` })}><code>${one.digest.slice(0, 12)}</code></a></td>
      <td><${Labels} labels=${Object.fromEntries(Object.entries(one.labels).filter(([, number]) => number === one.version))} /></td><td>${one.author}</td><td><${Ago} time=${one.created_at} /></td><td class="texts">${one.message}</td>
      <td>${may("operator") ? html`<button type="button" onClick=${() => label(one.version)}>Label…</button>` : null}</td></tr>`)}<//>
    ${version ? html`<h2>v${version.version}</h2>
      <p class="dim">${Object.entries(version.parameters).map(([key, value]) => `${key}: ${JSON.stringify(value)}`).join(", ")}</p>
      <${Shown} value=${version.template} />
      ${before ? html`<details><summary>What differs from v${before.version}</summary><${Difference} before=${before.template} now=${version.template} /></details>` : null}
      ${may("operator") ? html`<${Playground} key=${route.value.query.get("version") ?? "newest"} path=${path} version=${version} />` : null}` : null}`;
}

/** Edit it, try it with two models, and keep it as a version. @param {{path: string, version: any}} given */
function Playground({ path, version }) {
  const [template, setTemplate] = useState(version.template);
  const [ended, setEnded] = useState(/** @type {any[]} */ ([]));
  const [isBusy, setBusy] = useState(false);
  const isSame = template === version.template;
  const { variables = [], inputs: _, ...parameters } = version.parameters; // the registry names both again
  const filled = new Set(["agent_name", "task", "text", ...variables]);
  const inputs = [...new Set([...template.matchAll(/\{\{\s*([a-z][a-z0-9_]*)\s*\}\}/g)].map(([, name]) => name))].filter((name) => !filled.has(name));
  const keep = (/** @type {string} */ message) => call("PUT", path, { template, parameters, message });
  const save = () =>
    ask({
      title: "Save as a version",
      text: "Labels stay where they are.",
      done: "A version is made; labels stay where they are",
      fields: [{ name: "message", label: "What has changed, and why" }],
      work: ({ message }) => keep(message),
    });
  const run = async (/** @type {any} */ event) => {
    event.preventDefault();
    const given = new FormData(event.target);
    const models = [given.get("first"), given.get("second")].map(String).filter((name, at) => name || at === 0);
    setBusy(true);
    setEnded([]);
    await act("They have answered", async () => {
      const number = isSame ? version.version : (await keep("Tried on the page.")).version;
      const payload = Object.fromEntries(["text", ...inputs].map((name) => [name, String(given.get(name))]));
      setEnded(await Promise.all(models.map((model) => call("POST", `${path}/test?${asked({ version: number, model, wait: 300 })}`, payload))));
    });
    setBusy(false);
  };
  return html`<h2>Try it</h2>
    <form class="stack wider" data-of=${version.version} onSubmit=${run}>
      <label>Template <textarea rows="8" value=${template} onInput=${(/** @type {any} */ event) => setTemplate(event.target.value)}></textarea></label>
      ${inputs.map((name) => html`<label key=${name}>${name} <textarea name=${name} rows="2" required></textarea></label>`)}
      <label>Request <textarea name="text" rows="3" required=${inputs.length === 0}></textarea></label>
      <div class="bar"><label>Models <input name="first" placeholder="as the prompt says" /></label><label>and beside it <input name="second" placeholder="none" /></label>
        ${may("submitter") ? html`<button class="yes" title="Submits a task for each model, at its cost" disabled=${isBusy}>${isBusy ? "Running…" : isSame ? "Run" : "Save as a version and run"}</button>` : null}
        <button type="button" disabled=${isSame} onClick=${save}>Save as a version…</button></div>
    </form>
    <div class="beside">${ended.map((one, at) => html`<section class="card" key=${at} aria-label=${`Answer ${at + 1}`}><p class="line"><b>${one.model ?? "no model"}</b> <span>${dollars(one.cost_usd)}</span> <span>${one.duration_ms == null ? one.status : span(one.duration_ms / 1000)}</span> ${one.task_id && html`<${TaskLink} id=${one.task_id} />`}</p>
      ${one.error ? html`<p class="bad">${one.error.type}: ${one.error.message}</p>` : html`<${Shown} value=${one.text ?? one.result ?? ""} />`}</section>`)}</div>`;
}
