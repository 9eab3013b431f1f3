// What clients in Node do with OpenAI's API: `node node.mjs BASE_URL`, in a folder that has `openai`.
// Prints one line of JSON for each check: its name, and what went wrong, or null.
import { createRequire } from "node:module";
import assert from "node:assert";
const OpenAI = createRequire(process.cwd() + "/")("openai");
const client = new OpenAI({ baseURL: process.argv[2], apiKey: "none", maxRetries: 0 });
const model = "fast";
const messages = [{ role: "user", content: "Hello?" }];
const parameters = {
  type: "object", properties: { city: { type: "string" } }, required: ["city"], additionalProperties: false,
};
const tools = [{ type: "function", function: { name: "weather", strict: true, parameters } }];

const checks = {
  async plain() {
    assert((await client.chat.completions.create({ model, messages, seed: 7 })).choices[0].message.content);
  },
  async stream() {
    let chunks = 0;
    for await (const chunk of await client.chat.completions.create({ model, messages, stream: true })) chunks += 1;
    assert(chunks > 3);
  },
  async tools() {
    const reply = await client.chat.completions.create({
      model, messages, tools, tool_choice: "required", parallel_tool_calls: false,
    });
    assert.equal(reply.choices[0].message.tool_calls[0].function.name, "weather");
  },
  async responses() {
    const reply = await client.responses.create({ model, input: "Hello?" });
    assert(reply.output_text);
    const kinds = [];
    for await (const event of await client.responses.create({ model, input: "Hello?", stream: true })) {
      kinds.push(event.type);
    }
    assert.equal(kinds.at(-1), "response.completed");
  },
  async embeddings() {
    const made = await client.embeddings.create({ model, input: ["a", "b"] });
    assert.equal(made.data[1].embedding.length, 256);
  },
  async models() {
    assert.equal((await client.models.retrieve(model)).id, model);
    await assert.rejects(client.models.retrieve("absent"), OpenAI.NotFoundError);
  },
};

for (const [name, check] of Object.entries(checks)) {
  let problem = null;
  try { await check(); } catch (error) { problem = String(error.stack ?? error); }
  console.log(JSON.stringify([name, problem]));
}
