// Renders openapi.json, and sends requests. Everything is set as text, never as HTML.
"use strict";

function element(name, fields = {}, ...children) {
  const made = Object.assign(document.createElement(name), fields);
  made.append(...children);
  return made;
}

function exampleOf(content) {
  const first = content && Object.values(content)[0];
  return first && first.example !== undefined ? JSON.stringify(first.example, null, 2) : "";
}

function typeOf(schema = {}) {
  const kinds = (schema.anyOf || [schema]).filter((kind) => kind.type !== "null");
  return kinds.map((kind) => kind.enum ? kind.enum.join(" | ") : kind.format || kind.type || "any").join(" or ");
}

function parameterRow(parameter, inputs) {
  const schema = parameter.schema || {};
  const input = element("input", { placeholder: typeOf(schema), spellcheck: false });
  if (schema.default !== undefined && schema.default !== null) input.placeholder += ` (${schema.default})`;
  inputs.push({ parameter, input });
  const name = `${parameter.name}${parameter.required ? " *" : ""}`;
  const notes = [`in ${parameter.in}`, parameter.description].filter(Boolean).join(". ");
  return element("tr", {}, element("td", { textContent: name }), element("td", {}, input), element("td", { textContent: notes }));
}

function responseRows(responses) {
  return Object.entries(responses).map(([status, response]) =>
    element("tr", {}, element("td", { textContent: status }), element("td", { textContent: response.description })));
}

function requestOf(method, path, inputs, body, streams) {
  const url = new URL(location.origin);
  const headers = {};
  let filled = path;
  for (const { parameter, input } of inputs) {
    if (!input.value) continue;
    if (parameter.in === "path") filled = filled.replace(`{${parameter.name}}`, encodeURIComponent(input.value));
    else if (parameter.in === "query") url.searchParams.set(parameter.name, input.value);
    else headers[parameter.name] = input.value;
  }
  url.pathname = filled;
  const token = document.getElementById("token").value.trim();
  if (token) headers.Authorization = `Bearer ${token}`;
  if (streams) headers.Accept = "text/event-stream";
  if (body) headers["Content-Type"] = "application/json";
  return new Request(url, { method, headers, body: body || undefined });
}

function pretty(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}

async function send(request, output, signal) {
  output.textContent = `${request.method} ${request.url} …`;
  try {
    const response = await fetch(request, { signal });
    const head = `${response.status} ${response.statusText}\n\n`;
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let text = "";
    for (let piece = await reader.read(); !piece.done; piece = await reader.read()) {
      text += piece.value;
      output.textContent = head + text;
    }
    output.textContent = head + pretty(text);
  } catch (error) {
    output.textContent += signal.aborted ? "\n(stopped)" : `\n${error}`;
  }
}

function tryOut(method, path, operation, inputs, body) {
  const output = element("pre", { hidden: true });
  const streams = Object.values(operation.responses).some((each) => each.content && each.content["text/event-stream"]);
  const follow = element("input", { type: "checkbox" });
  let abort = new AbortController();
  const stop = element("button", { textContent: "Stop", hidden: true, onclick: () => abort.abort() });
  const start = element("button", { textContent: "Send" });
  start.onclick = async () => {
    abort = new AbortController();
    output.hidden = false;
    stop.hidden = false;
    const request = requestOf(method.toUpperCase(), path, inputs, body && body.value, streams && follow.checked);
    await send(request, output, abort.signal);
    stop.hidden = true;
  };
  const choice = streams ? [element("label", {}, follow, " as a stream of events")] : [];
  return [...choice, start, stop, output];
}

function contentOf(method, path, operation) {
  const inputs = [];
  const made = element("div", {}, element("p", { textContent: operation.description || operation.summary }));
  const parameters = operation.parameters || [];
  if (parameters.length) {
    const rows = parameters.map((parameter) => parameterRow(parameter, inputs));
    made.append(element("h3", { textContent: "Parameters" }), element("table", {}, ...rows));
  }
  let body = null;
  if (operation.requestBody) {
    body = element("textarea", { value: exampleOf(operation.requestBody.content), spellcheck: false });
    made.append(element("h3", { textContent: "Body" }), body);
  }
  made.append(...tryOut(method, path, operation, inputs, body));
  made.append(element("h3", { textContent: "Answers" }), element("table", {}, ...responseRows(operation.responses)));
  const good = Object.entries(operation.responses).find(([status]) => status.startsWith("2"));
  const example = good && exampleOf(good[1].content);
  if (example) made.append(element("h3", { textContent: `Example of ${good[0]}` }), element("pre", { textContent: example }));
  return made;
}

function detailsOf(method, path, operation) {
  const summary = element("summary", {},
    element("span", { className: "method", textContent: method.toUpperCase() }),
    element("span", { className: "path", textContent: path }),
    element("span", { className: "what", textContent: operation.summary || "" }));
  const details = element("details", {}, summary);
  details.addEventListener("toggle", () => {
    if (details.children.length === 1) details.append(contentOf(method, path, operation));
  });
  return details;
}

async function main() {
  const about = document.getElementById("description");
  const response = await fetch("/openapi.json");
  const api = await response.json();
  about.textContent = api.info.description.replaceAll("`", "");
  const groups = new Map();
  for (const [path, operations] of Object.entries(api.paths)) {
    for (const [method, operation] of Object.entries(operations)) {
      const tag = (operation.tags || ["other"])[0];
      if (!groups.has(tag)) groups.set(tag, element("section", {}, element("h2", { textContent: tag })));
      groups.get(tag).append(detailsOf(method, path, operation));
    }
  }
  document.getElementById("operations").append(...groups.values());
}

main().catch((error) => {
  document.getElementById("description").textContent = `openapi.json cannot be read: ${error}`;
});
