// Clients of AG-UI, driven by lines on stdin: {client, url, thread, text?, run}. Each line is a run of the client
// of that name, which goes on with what it knows; the answer is a line with what it saw, and what it shows then.
import { createInterface } from "node:readline";

const { HttpAgent } = await import(`${process.argv[2]}/node_modules/@ag-ui/client/dist/index.mjs`);
const clients = new Map();

for await (const line of createInterface({ input: process.stdin })) {
  const { client, url, thread, text, run } = JSON.parse(line);
  if (!clients.has(client)) clients.set(client, new HttpAgent({ url, threadId: thread }));
  const agent = clients.get(client);
  agent.url = url;
  if (text) agent.addMessage({ id: `message-${run.runId}`, role: "user", content: text });
  const seen = { types: [], finished: null, failed: null, error: null };
  const subscriber = {
    onEvent: ({ event }) => void seen.types.push(event.type),
    onRunFinishedEvent: ({ event }) => void (seen.finished = event),
    onRunErrorEvent: ({ event }) => void (seen.failed = event),
  };
  try {
    await agent.runAgent(run, subscriber);
  } catch (error) {
    seen.error = String(error.message ?? error);
  }
  console.log(JSON.stringify({ ...seen, messages: agent.messages, state: agent.state, pending: agent.pendingInterrupts }));
}
