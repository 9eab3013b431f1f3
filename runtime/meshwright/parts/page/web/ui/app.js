// @ts-check
/** The page: the header, and the view that the address names. */
import { html, render, signal, useEffect } from "./vendor/preact.js";
import { Dialogs } from "./dialog.js";
import { Inbox } from "./inbox.js";
import { act, call, follow, live, may, me, notice, route, tenant, to, touch, useData, waiting } from "./lib.js";
import { Login } from "./login.js";
import { MeshPage } from "./mesh.js";
import { TaskPage } from "./task.js";
import { Tasks } from "./tasks.js";
import { TryIt } from "./try.js";

/**
 * The views of tasks and of the whole mesh by name: what each shows, its title in the header (none: it is not there), and the roles that it takes.
 * @type {Record<string, {show: () => any, title: string, roles: string[]}>}
 */
const VIEWS = {
  inbox: { show: Inbox, title: "Inbox", roles: ["contents"] },
  tasks: { show: Tasks, title: "Tasks", roles: ["viewer"] },
  task: { show: TaskPage, title: "", roles: ["viewer", "submitter"] },
  mesh: { show: MeshPage, title: "Mesh", roles: ["viewer"] },
};

/** @type {typeof VIEWS} */
const LAST = { try: { show: TryIt, title: "Try it", roles: ["submitter"] } };

/** The views of the parts of the mesh by their paths, null until they are loaded. */
const others = signal(/** @type {typeof VIEWS | null} */ (null));

/** Loads the views of parts side by side. One that fails says so in its place. */
async function load() {
  const views = await Promise.all(me.value.views.map(loaded));
  others.value = Object.fromEntries(views.flat());
}

/** @param {{path: string, title: string}} view @returns {Promise<[string, (typeof VIEWS)[string]][]>} */
async function loaded({ path, title }) {
  try {
    const { default: view, roles = ["viewer"] } = await import(`${path}/view.js`);
    const show = () => {
      try {
        return view();
      } catch (/** @type {any} */ error) {
        return html`<h1>${title}</h1><p class="bad" role="alert">This view has failed: ${error.message}</p>`;
      }
    };
    return [[path.replace("/ui/", "/").slice(1).replaceAll("/", "-"), { show, title, roles }]];
  } catch (/** @type {any} */ error) {
    notice.value = { text: `The view ${title} could not be loaded: ${error.message}`, bad: true };
    return [];
  }
}

function App() {
  useEffect(() => {
    ask();
  }, []);
  if (me.value === null) return html`<main><p class="dim">${notice.value?.text ?? "Asking the mesh…"}</p></main>`;
  return me.value === undefined ? html`<${Login} />` : html`<${Shell} />`;
}

async function ask() {
  try {
    me.value = await call("GET", "/me");
  } catch (/** @type {any} */ error) {
    if (me.value === null) {
      notice.value = { text: `${error.message}. It is asked again.`, bad: true };
      setTimeout(ask, 2_000);
    }
  }
}

let shownTo = "";

function Shell() {
  useEffect(() => {
    const { name, tenant_id: of } = me.value;
    if (shownTo && shownTo !== `${of} ${name}`) location.reload(); // another caller sees nothing of the one before
    shownTo = `${of} ${name}`;
    if (may("viewer")) follow();
    else setInterval(() => touch(), 5_000);
    load();
  }, []);
  useBadge();
  const named = route.value.query.get("tenant");
  useEffect(() => {
    if (named && me.value.all_tenants) choose(named);
  }, [named]);
  const views = { ...VIEWS, ...others.value, ...LAST };
  const able = Object.entries(views).filter(([, one]) => may(...one.roles));
  const isHere = able.some(([key]) => key === route.value.view);
  const isComing = !isHere && Boolean(route.value.view) && others.value === null;
  const first = able.find(([, one]) => one.title)?.[0] ?? "none";
  const name = isHere ? route.value.view : isComing ? "coming" : first;
  const view = isComing ? COMING : views[name] ?? { show: NoRole, title: "No role" };
  const current = name === "task" ? "tasks" : name;
  useEffect(() => {
    document.querySelector("nav [aria-current]")?.scrollIntoView({ block: "nearest", inline: "center" });
    document.title = `${waiting.value ? `(${waiting.value}) ` : ""}${view.title || "Task"} · Meshwright`;
  }, [view, waiting.value]);
  return html`<header class="top">
      <a class="unseen" href="#main" onClick=${skip}>To the content</a>
      <b>Meshwright</b>
      <nav aria-label="Views">${able.filter(([, one]) => one.title).map(([key, one]) => html`<a key=${key} href=${to(key)} aria-current=${key === current ? "page" : undefined}>${one.title}${key === "inbox" && waiting.value ? html` <span class="badge">${waiting.value}</span>` : ""}</a>`)}</nav>
      <span class="line mine">
      ${me.value.all_tenants && me.value.logged_in ? html`<${Tenant} />` : null}
      <span class="dim" role="status">${may("viewer") ? live.value : ""}</span>
      <${Account} /></span>
    </header>
    ${notice.value ? html`<p class=${`notice ${notice.value.bad ? "bad" : ""}`} role=${notice.value.bad ? "alert" : "status"}>${notice.value.text} <button type="button" class="plain" aria-label="Close" onClick=${() => { notice.value = null; }}>×</button></p>` : null}
    <main id="main" tabindex="-1"><${view.show} key=${`${name}/${route.value.id}`} /></main>
    <${Dialogs} />`;
}

const COMING = { show: () => html`<p class="dim">Loading…</p>`, title: "Loading" };
const NoRole = () => html`<h1>No role</h1><p>These credentials have no role in this mesh. An administrator gives them one.</p>`;

/** Goes on with the content, for the keyboard; the address stays that of the view. @param {Event} event */
function skip(event) {
  event.preventDefault();
  document.getElementById("main")?.focus();
}

/** Counts the inbox, also where another view is open. */
function useBadge() {
  const isElsewhere = route.value.view !== "inbox" && may("contents");
  const { data } = useData(isElsewhere ? "/inbox?limit=200" : null);
  useEffect(() => {
    if (data) waiting.value = data.items.length ? `${data.items.length}${data.cursor ? "+" : ""}` : "";
  }, [data]);
}

function Account() {
  const leave = () =>
    act("Logged out", async () => {
      await call("DELETE", "/session");
      location.reload(); // with all that was shown
    });
  return html`<span class="dim" title=${me.value.roles.join(", ")}>${me.value.name}</span> ${me.value.logged_in ? html`<button type="button" onClick=${leave}>Log out</button>` : null}`;
}

/** Act for a tenant from now on. @param {string} named */
function choose(named) {
  tenant.value = named;
  sessionStorage.setItem("tenant", named);
  touch();
}

function Tenant() {
  const set = (/** @type {any} */ event) => choose(event.target.value.trim());
  return html`<label key=${tenant.value}>Tenant <input defaultValue=${tenant.value} size="4" placeholder="all" onChange=${set} /></label>`;
}

render(html`<${App} />`, /** @type {HTMLElement} */ (document.getElementById("app")));
performance.mark("interactive");
