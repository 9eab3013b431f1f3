// @ts-check
/** The configurations of agents: which model each calls, with which address and key. */
import { html } from "/ui/vendor/preact.js";
import { ask } from "/ui/dialog.js";
import { admin, Ago, asked, Asking, call, Failed, LogIn, may, slow, Table, to, useData } from "/ui/lib.js";

const SINCE = "7d";

/** The view: all configurations, or one. */
export default function ConfigsPage() {
  const { data, error } = useData("/api/agents");
  const { data: agents, error: missing } = useData("/agents");
  const known = new Set((data?.items ?? []).map((/** @type {any} */ one) => one.agent_id));
  const others = (agents?.items ?? []).filter((/** @type {any} */ one) => one.kind !== "system" && !known.has(one.agent_id)).map((/** @type {any} */ one) => one.agent_id);
  const { data: costs } = useData(`/costs?${asked({ by: "agent,model", since: SINCE })}`, slow);
  return html`<h1>Agent configuration</h1><${Failed} error=${error} /><${Asking} of=${{ data, error }} />
    <p class="dim">A configuration says which model an agent calls, in place of mesh.toml. It decides the agent's next call.</p>
    ${may("admin") && !admin() ? html`<p>An administrator's credentials change it. <${LogIn} /></p>` : null}
    ${admin() && data && (agents || missing) ? html`<p class="bar"><button type="button" class="yes" onClick=${() => create(others)}>Configure an agent…</button></p>` : null}
    ${data?.items.length === 0 ? html`<p class="empty">No agent has a configuration: all call the models of mesh.toml.</p>` : null}
    ${data?.items.length ? html`<${Table} label="Configurations" heads=${["Agent", "Model", "Key", "#Timeout", "#Temperature", "#Most tokens", "Changed", ""]}>
      ${data.items.map((/** @type {any} */ one) => html`<${Row} key=${one.agent_id} one=${one} />`)}<//>` : null}
    ${others.length && data ? html`<h2>Agents without a configuration</h2><${Others} agents=${others} fallback=${data.items.find((/** @type {any} */ one) => one.is_default && one.is_active)} costs=${costs?.items ?? []} />` : null}`;
}

/** What the other agents call: the active default configuration, else the models of mesh.toml; and which have answered lately. @param {{agents: string[], fallback: any, costs: any[]}} given */
const Others = ({ agents, fallback, costs }) => html`<${Table} label="Agents without a configuration" heads=${["Agent", "Models", `Called in the last ${SINCE}`, ""]}>
  ${agents.map((agent) => {
    const models = costs.filter((one) => one.key === agent && one.key2);
    return html`<tr key=${agent}><td><a href=${to("tasks", { agent_id: agent })}>${agent}</a></td><td>${fallback ? html`${fallback.agent_id}: ${fallback.llm_provider}/${fallback.llm_model}` : "as in mesh.toml"}</td>
      <td>${models.length ? models.map((one, at) => html`${at ? ", " : ""}<a href=${to("tasks", { agent_id: agent, model: one.key2, since: SINCE })}>${one.key2}</a> <span class="dim">${one.calls}×</span>`) : html`<span class="dim">none</span>`}</td>
      <td>${admin() ? html`<button type="button" aria-label=${`Configure ${agent}`} onClick=${() => create(agents, agent)}>Configure…</button>` : null}</td></tr>`;
  })}<//>`;

/** @param {{one: any}} given */
function Row({ one }) {
  return html`<tr><td class="texts"><a href=${to("tasks", { agent_id: one.agent_id })}>${one.agent_id}</a>${one.is_default ? html` <span class="tag">default</span>` : ""}${one.is_active ? "" : html` <span class="tag">inactive</span>`}${one.is_default && !one.is_active ? html`<br /><span class="dim">Every mesh has it. No agent uses it until it is active.</span>` : ""}${one.name ? html`<br /><span class="dim" title=${one.description}>${one.name}</span>` : ""}</td>
    <td class="whole">${one.llm_provider}/${one.llm_model}${one.llm_endpoint ? html`<br /><span class="dim">${one.llm_endpoint}</span>` : ""}</td><td>${one.has_api_key ? "stored" : "none"}</td>
    <td class="number">${one.llm_timeout} s</td><td class="number">${one.llm_temperature}</td><td class="number">${one.llm_max_tokens ?? ""}</td>
    <td><${Ago} time=${one.updated_at ?? one.created_at} /></td>
    <td class="line">${admin() ? html`<button type="button" aria-label=${`Change the configuration of ${one.agent_id}`} onClick=${() => change(one)}>Change…</button>
      <button type="button" class="no" aria-label=${`Delete the configuration of ${one.agent_id}`} onClick=${() => remove(one)}>Delete…</button>` : null}</td></tr>`;
}

/** @param {any} one */
const fieldsOf = (one) => [
  { name: "llm_provider", label: "Provider", value: one.llm_provider, required: true, hint: "such as anthropic, openai, ollama" },
  { name: "llm_model", label: "Model", value: one.llm_model, required: true },
  { name: "llm_endpoint", label: "Address", value: one.llm_endpoint ?? "", placeholder: "that of the provider" },
  { name: "llm_api_key", label: "Key", type: "password", hint: one.has_api_key ? "One is stored. Leave this empty to keep it; another provider or address needs it again." : "It is stored encrypted, and not shown again." },
  ...(one.has_api_key ? [{ name: "forget", label: "Delete the stored key", type: "check" }] : []),
  { name: "llm_timeout", label: "Seconds that a call may take", type: "number", value: one.llm_timeout ?? 30, required: true },
  { name: "llm_temperature", label: "Temperature", type: "number", value: one.llm_temperature ?? 0.7, required: true },
  { name: "llm_max_tokens", label: "Most tokens of a reply", type: "number", value: one.llm_max_tokens ?? "", placeholder: "no limit" },
  { name: "is_default", label: "For all agents without a configuration", type: "check", value: one.is_default },
  { name: "is_active", label: "Active", type: "check", value: one.is_active ?? true },
];

/** What was given, as the API takes it. @param {Record<string, any>} given @returns {Record<string, any>} */
function body({ forget, llm_api_key: key, ...given }) {
  const numbers = { llm_timeout: Number(given.llm_timeout), llm_temperature: Number(given.llm_temperature), llm_max_tokens: given.llm_max_tokens ? Number(given.llm_max_tokens) : null };
  return { ...given, ...numbers, llm_endpoint: given.llm_endpoint || null, ...(key ? { llm_api_key: key } : forget ? { llm_api_key: null } : {}) };
}

/** @param {string[]} agents @param {string} [agent] */
const create = (agents, agent = "") =>
  ask({
    title: "Configure an agent",
    yes: "Save",
    done: "The agent's next call goes by it",
    fields: [{ name: "agent_id", label: "Agent", type: "select", required: true, value: agent, options: [["", "choose one"], ...agents.map((name) => [name])] }, ...fieldsOf({})],
    work: (given) => call("POST", "/api/agents", body(given)),
  });

/** @param {any} one */
const change = (one) =>
  ask({
    title: `Change the configuration of ${one.agent_id}`,
    done: "The agent's next call goes by it",
    fields: fieldsOf(one),
    work: (given) => {
      const sent = Object.entries(body(given)).filter(([name, value]) => name === "llm_api_key" || value !== one[name]);
      if (!sent.length) throw new Error("Nothing is changed");
      return call("PUT", `/api/agents/${encodeURIComponent(one.agent_id)}`, Object.fromEntries(sent));
    },
  });

/** @param {any} one */
const remove = (one) =>
  ask({
    title: `Delete the configuration of ${one.agent_id}?`,
    text: one.has_api_key ? "Its key is deleted too. The agent's next call is as without a configuration." : "The agent's next call is as without a configuration.",
    yes: "Delete",
    isDanger: true,
    done: "It is deleted",
    work: () => call("DELETE", `/api/agents/${encodeURIComponent(one.agent_id)}`),
  });
