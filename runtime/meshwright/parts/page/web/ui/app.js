// @ts-check
/** The page: its views, and the one that the address names in the frame. */
import { html, render, useEffect, useState } from "./vendor/preact.js";
import { Dialogs } from "./dialog.js";
import { choose, Frame } from "./frame.js";
import { call, follow, may, me, notice, route, to, touch, useData, waiting } from "./lib.js";
import { Login } from "./login.js";
import "./pointer.js";
import { load, Loaded } from "./views.js";

/**
 * The views of tasks and of the whole mesh by name: their modules, their titles in the side bar (none: they are not there), their groups, and the roles that they take.
 * @type {Record<string, import("./views.js").View & {roles: string[]}>}
 */
const VIEWS = {
  inbox: { path: "./inbox.js", title: "Inbox", group: "Work", roles: ["contents"] },
  tasks: { path: "./tasks.js", title: "Tasks", group: "Work", roles: ["viewer"] },
  task: { path: "./task.js", title: "", group: "Work", roles: ["viewer", "submitter"] },
  try: { path: "./try.js", title: "Try it", group: "Work", roles: ["submitter"] },
  mesh: { path: "./mesh.js", title: "Mesh", group: "Fleet", roles: ["viewer"] },
};

/** The views that the caller may open: those above, and those of the parts of the mesh. @returns {[string, import("./views.js").View][]} */
const viewsOf = () => [
  ...Object.entries(VIEWS).filter(([, view]) => may(...view.roles)),
  ...me.value.views.map((/** @type {any} */ view) => [view.path.replace("/ui/", "/").slice(1).replaceAll("/", "-"), { ...view, path: `${view.path}/view.js` }]),
];

function App() {
  useEffect(() => {
    ask();
  }, []);
  if (me.value === null) return html`<main class="alone"><p class="dim">${notice.value?.text ?? "Asking the mesh…"}</p></main>`;
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
  const [isBegun, setBegun] = useState(!isUnnamed() || !may("viewer") || !may("submitter"));
  useEffect(() => {
    const { name, tenant_id: of } = me.value;
    if (shownTo && shownTo !== `${of} ${name}`) location.reload(); // another caller sees nothing of the one before
    shownTo = `${of} ${name}`;
    if (may("viewer")) follow();
    else setInterval(() => touch(), 5_000);
    if (!isBegun) begin().then(() => setBegun(true));
  }, []);
  useBadge();
  const named = route.value.query.get("tenant");
  useEffect(() => {
    if (named && me.value.all_tenants) choose(named);
  }, [named]);
  const views = viewsOf();
  const titled = views.filter(([, one]) => one.title);
  const [name, view] = views.find(([key]) => key === route.value.view) ?? (isUnnamed() ? titled[0] : null) ?? ["none", null];
  useEffect(() => {
    document.title = `${waiting.value ? `(${waiting.value}) ` : ""}${view ? view.title || "Task" : "Not found"} · Meshwright`;
  }, [name, waiting.value]);
  const shown = view ? html`<${Loaded} key=${`${name}/${route.value.id}`} ...${view} />` : titled.length ? html`<${NoView} views=${titled} />` : html`<${NoRole} />`;
  return html`<${Frame} views=${titled} current=${name === "task" ? "tasks" : name}>${isBegun || !isUnnamed() ? shown : null}<//><${Dialogs} />`;
}

/** Whether the address names no view. */
const isUnnamed = () => !location.hash.replace(/^#\/?/, "");

/** Opens a mesh without tasks with the view that tries it, unless somebody has gone elsewhere meanwhile. */
async function begin() {
  load(VIEWS.try.path, VIEWS.try.title).catch(() => {}); // it is then tried again, and says so
  const { items } = await call("GET", "/tasks?limit=1").catch(() => ({ items: [null] })); // the inbox says that it fails
  if (items.length || !isUnnamed()) return;
  history.replaceState(null, "", to("try"));
  dispatchEvent(new HashChangeEvent("hashchange"));
}

/** What an address shows that names no view of the caller. @param {{views: [string, import("./views.js").View][]}} props */
const NoView = ({ views: [[first, { title }]] }) => html`<h1>Not found</h1><p>This address names no view, or your roles do not open it.</p><p><a href=${to(first)}>${title}</a></p>`;

const NoRole = () => html`<h1>No role</h1><p>These credentials have no role in this mesh. An administrator gives them one.</p>`;

/** Counts the inbox, also where another view is open. */
function useBadge() {
  const isElsewhere = route.value.view !== "inbox" && may("contents");
  const { data } = useData(isElsewhere ? "/inbox?limit=200" : null);
  useEffect(() => {
    if (data) waiting.value = data.items.length ? `${data.items.length}${data.cursor ? "+" : ""}` : "";
  }, [data]);
}

render(html`<${App} />`, /** @type {HTMLElement} */ (document.getElementById("app")));
performance.mark("interactive");
