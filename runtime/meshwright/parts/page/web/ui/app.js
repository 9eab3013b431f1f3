// @ts-check
/** The page: its views, and the one that the address names in the frame. */
import { html, render, signal, useEffect } from "./vendor/preact.js";
import { Dialogs } from "./dialog.js";
import { Inbox } from "./inbox.js";
import { choose, Frame } from "./frame.js";
import { call, follow, may, me, notice, route, to, touch, useData, waiting } from "./lib.js";
import { Login } from "./login.js";
import { MeshPage } from "./mesh.js";
import { TaskPage } from "./task.js";
import { Tasks } from "./tasks.js";
import { TryIt } from "./try.js";

/**
 * The views of tasks and of the whole mesh by name: what each shows, its title in the side bar (none: it is not there), its group, and the roles that it takes.
 * @type {Record<string, import("./frame.js").View>}
 */
const VIEWS = {
  inbox: { show: Inbox, title: "Inbox", group: "Work", roles: ["contents"] },
  tasks: { show: Tasks, title: "Tasks", group: "Work", roles: ["viewer"] },
  task: { show: TaskPage, title: "", group: "Work", roles: ["viewer", "submitter"] },
  try: { show: TryIt, title: "Try it", group: "Work", roles: ["submitter"] },
  mesh: { show: MeshPage, title: "Mesh", group: "Fleet", roles: ["viewer"] },
};

/** The views of the parts of the mesh by their paths, null until they are loaded. */
const others = signal(/** @type {typeof VIEWS | null} */ (null));

/** Loads the views of parts side by side. One that fails says so in its place. */
async function load() {
  const views = await Promise.all(me.value.views.map(loaded));
  others.value = Object.fromEntries(views.flat());
}

/** @param {{path: string, title: string, group: string}} view @returns {Promise<[string, (typeof VIEWS)[string]][]>} */
async function loaded({ path, title, group }) {
  try {
    const { default: view, roles = ["viewer"] } = await import(`${path}/view.js`);
    const show = () => {
      try {
        return view();
      } catch (/** @type {any} */ error) {
        return html`<h1>${title}</h1><p class="bad" role="alert">This view has failed: ${error.message}</p>`;
      }
    };
    return [[path.replace("/ui/", "/").slice(1).replaceAll("/", "-"), { show, title, group, roles }]];
  } catch (/** @type {any} */ error) {
    notice.value = { text: `The view ${title} could not be loaded: ${error.message}`, bad: true };
    return [];
  }
}

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
  useEffect(() => {
    const { name, tenant_id: of } = me.value;
    if (shownTo && shownTo !== `${of} ${name}`) location.reload(); // another caller sees nothing of the one before
    shownTo = `${of} ${name}`;
    if (may("viewer")) follow();
    else setInterval(() => touch(), 5_000);
    load();
    if (isUnnamed() && may("viewer") && may("submitter")) begin();
  }, []);
  useBadge();
  const named = route.value.query.get("tenant");
  useEffect(() => {
    if (named && me.value.all_tenants) choose(named);
  }, [named]);
  const views = { ...VIEWS, ...others.value };
  const able = Object.entries(views).filter(([, one]) => may(...one.roles));
  const titled = able.filter(([, one]) => one.title);
  const isHere = able.some(([key]) => key === route.value.view);
  const isComing = !isHere && Boolean(route.value.view) && others.value === null;
  const name = isHere ? route.value.view : isComing ? "coming" : titled[0]?.[0] ?? "none";
  const view = isComing ? COMING : views[name] ?? { show: NoRole, title: "No role" };
  useEffect(() => {
    document.title = `${waiting.value ? `(${waiting.value}) ` : ""}${view.title || "Task"} · Meshwright`;
  }, [view, waiting.value]);
  return html`<${Frame} views=${titled} current=${name === "task" ? "tasks" : name}><${view.show} key=${`${name}/${route.value.id}`} /><//><${Dialogs} />`;
}

/** Whether the address names no view. */
const isUnnamed = () => !location.hash.replace(/^#\/?/, "");

/** Opens a mesh without tasks with the view that tries it, unless somebody has gone elsewhere meanwhile. */
async function begin() {
  const { items } = await call("GET", "/tasks?limit=1").catch(() => ({ items: [null] })); // the inbox says that it fails
  if (!items.length && isUnnamed()) location.replace(to("try"));
}

const COMING = { show: () => html`<p class="dim">Loading…</p>`, title: "Loading" };
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
