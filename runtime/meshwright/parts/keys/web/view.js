// @ts-check
/** The keys of callers: made, rotated and revoked by an administrator; each is shown once. */
import { html } from "/ui/vendor/preact.js";
import { ask } from "/ui/dialog.js";
import { admin, Ago, call, Failed, LogIn, me, Table, to, useData } from "/ui/lib.js";

const ROLES = [
  ["viewer", "viewer: states, costs, events without contents"],
  ["contents", "contents: what was said, too"],
  ["submitter", "submitter: gives tasks, answers own ones"],
  ["operator", "operator: retries, cancels, budgets, schedules"],
  ["approver", "approver: answers questions and approvals"],
  ["worker", "worker: claims tasks of external agents"],
  ["admin", "admin: keys, configuration, and all of the others"],
];
const USUAL = ["viewer", "contents", "submitter"];

/** The view. */
export default function KeysPage() {
  const { data, error } = useData(admin() ? "/keys" : null);
  const { data: agents, error: missing } = useData(admin() ? "/agents" : null);
  if (!admin()) return html`<h1>Keys</h1><p>Keys are managed with an administrator's credentials, on the mesh's own machine too.</p><${LogIn} />`;
  const names = (agents?.items ?? []).filter((/** @type {any} */ one) => one.kind !== "system").map((/** @type {any} */ one) => one.agent_id);
  return html`<h1>Keys</h1><${Failed} error=${error} />
    ${data && (agents || missing) ? html`<p class="bar"><button type="button" class="yes" onClick=${() => create(names, data.required)}>Create a key…</button>
      ${data.required && me.value.all_tenants ? html`<button type="button" class="no" onClick=${open}>Require no keys…</button>` : null}
      <span class="dim">${data.required ? "Every caller needs a key." : "Callers on this machine need no key."}</span></p>` : null}
    ${data?.items.length === 0 ? html`<p class="empty">There is no key.</p>` : null}
    ${data?.items.length ? html`<${Table} label="Keys" heads=${["Holder", "Tenant", "Roles", "Budget", "State", "Created", "Expires", "Used", ""]}>
      ${[...data.items].reverse().map((/** @type {any} */ key) => html`<${Row} key=${key.key_id} one=${key} />`)}<//>` : null}`;
}

/** @param {any} key */
function stateOf(key) {
  if (key.revoked_at) return "revoked";
  if (key.expires_at && Date.parse(key.expires_at) < Date.now()) return "expired";
  return key.replaced_by ? "rotated" : "active";
}

/** @param {{one: any}} given */
function Row({ one }) {
  const state = stateOf(one);
  return html`<tr><td><a href=${to("tasks", { requested_by: one.agent_id })}>${one.agent_id}</a><br /><code class="dim" title=${one.key_id}>…${one.key_id.slice(-6)}</code></td>
    <td>${one.tenant_id === "*" ? "all" : one.tenant_id}</td><td>${one.roles.join(", ")}</td><td>${one.budget ? `$${one.budget.limit_usd}/${one.budget.window}` : ""}</td>
    <td><span class=${`status ${state === "active" ? "s-succeeded" : state === "rotated" ? "s-waiting" : ""}`}>${state}</span></td>
    <td><${Ago} time=${one.created_at} /></td><td>${one.expires_at ? html`<${Ago} time=${one.expires_at} />` : "never"}</td><td>${one.used_at ? html`<${Ago} time=${one.used_at} />` : "never"}</td>
    <td class="line">${state === "active" ? html`<button type="button" aria-label=${`Rotate the key of ${one.agent_id}`} onClick=${() => rotate(one)}>Rotate…</button>` : null}
      ${one.revoked_at ? null : html`<button type="button" class="no" aria-label=${`Revoke the key of ${one.agent_id}`} onClick=${() => revoke(one)}>Revoke…</button>`}</td></tr>`;
}

/** @param {string[]} agents @param {boolean} isRequired */
async function create(agents, isRequired) {
  let made = /** @type {any} */ (null);
  const isDone = await ask({
    title: "Create a key",
    text: isRequired ? "" : "From the first key on, every caller needs one.",
    yes: "Create",
    fields: [
      { name: "name", label: "Name of the person or program", hint: "or choose an agent" },
      { name: "agent_id", label: "Agent", type: "select", options: [["", "none"], ...agents.map((name) => [name])] },
      ...(me.value.all_tenants ? [{ name: "tenant_id", label: "Tenant", placeholder: "default", hint: "* is all tenants" }] : []),
      { name: "roles", label: "Roles", type: "checks", options: ROLES, value: USUAL },
      { name: "expires", label: "Expires in", placeholder: "never", hint: "such as 30d, 12h" },
      { name: "budget", label: "Budget", placeholder: "none", hint: "such as 5/day: day, hour, month or total" },
    ],
    work: async (given) => {
      if (!given.roles.length) throw new Error("Choose at least one role");
      made = await call("POST", "/keys", Object.fromEntries(Object.entries(given).filter(([, value]) => value !== "")));
    },
  });
  if (isDone) show(made);
}

/** @param {any} key */
async function rotate(key) {
  let made = /** @type {any} */ (null);
  const isDone = await ask({
    title: `Rotate the key of ${key.agent_id}`,
    text: "A new key takes its place, of the same roles, tenant and budget.",
    yes: "Rotate",
    fields: [
      { name: "grace", label: "Both work for", value: "1h", required: true, hint: "such as 1h, 7d" },
      { name: "expires", label: "The new one expires in", placeholder: "as long as the other was to live", hint: "such as 30d" },
    ],
    work: async (given) => {
      made = await call("POST", `/keys/${key.key_id}/rotate`, { grace: given.grace, ...(given.expires ? { expires: given.expires } : {}) });
    },
  });
  if (isDone) show(made);
}

/** @param {any} made */
const show = (made) =>
  ask({
    title: `The key of ${made.agent_id}`,
    text: html`<p>It is shown this once. The mesh has only its digest.</p><${Secret} text=${made.key} />`,
    yes: "I have saved it",
    no: "",
  });

/** @param {{text: string}} given */
function Secret({ text }) {
  const copy = async (/** @type {any} */ event) => {
    const field = event.target.form.querySelector("input");
    field.select();
    await navigator.clipboard?.writeText(text).then(() => {
      event.target.textContent = "Copied";
    }, () => {}); // where a browser forbids it, the text is selected
  };
  return html`<p class="line"><label>Key <input readonly value=${text} size="44" onFocus=${(/** @type {any} */ event) => event.target.select()} /></label> <button type="button" onClick=${copy}>Copy</button></p>`;
}

/** @param {any} key */
const revoke = (key) =>
  ask({
    title: `Revoke the key of ${key.agent_id}?`,
    text: "Callers with it are refused at once, and their streams and logins end. This cannot be undone.",
    yes: "Revoke",
    no: "Keep it",
    isDanger: true,
    done: "The key is revoked",
    work: () => call("DELETE", `/keys/${key.key_id}`),
  });

const open = () =>
  ask({
    title: "Require no keys any more?",
    text: "All keys are revoked, and callers on the mesh's machine need none until another one is created.",
    yes: "Revoke all keys",
    isDanger: true,
    done: "The keys are revoked",
    work: () => call("POST", "/keys/open"),
  });
