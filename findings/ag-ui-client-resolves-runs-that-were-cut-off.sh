#!/usr/bin/env bash
# @ag-ui/client 1.0.0 (npm) on Node. 2026-11-29.
# A run streams RUN_STARTED and the beginning of a text, and its connection ends there, as when a proxy times out or the
# server stops. `runAgent` resolves with the half of the text as a message, as it does for a run with RUN_FINISHED:
# no error, and no `onRunFailed`. Only `onRunFinishedEvent`, which is not called, tells the two apart.
# Most would expect: a rejection. RUN_FINISHED or RUN_ERROR ends each run by the protocol, and the client checks the order
# of events: it refuses a text that goes on behind its end.
# Seen: whole: resolved with "Your order is", finished, finalized; cut: resolved with "Your order is", finalized
# Why an agent runtime meets it: runs last minutes, and proxies end what is silent for sixty seconds. The page shows
# half an answer as the answer, keeps it in its history, and sends that with the next question.
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT
cd "$dir"
cat > t.mjs <<'P'
import http from "node:http";
import { HttpAgent } from "@ag-ui/client";

const answer = (isWhole) => (_, response) => {
  response.writeHead(200, { "content-type": "text/event-stream" });
  const events = [
    { type: "RUN_STARTED", threadId: "t", runId: "r" },
    { type: "TEXT_MESSAGE_START", messageId: "m", role: "assistant" },
    { type: "TEXT_MESSAGE_CONTENT", messageId: "m", delta: "Your order is" },
  ];
  const end = [{ type: "TEXT_MESSAGE_END", messageId: "m" }, { type: "RUN_FINISHED", threadId: "t", runId: "r" }];
  for (const event of isWhole ? [...events, ...end] : events) response.write(`data: ${JSON.stringify(event)}\n\n`);
  response.end();
};

const seen = [];
for (const [name, isWhole] of [["whole", true], ["cut", false]]) {
  const server = http.createServer(answer(isWhole));
  await new Promise((done) => server.listen(0, "127.0.0.1", done));
  const agent = new HttpAgent({ url: `http://127.0.0.1:${server.address().port}/`, threadId: "t" });
  const calls = [];
  const subscriber = {
    onRunFinishedEvent: () => void calls.push("finished"),
    onRunFailed: () => void calls.push("failed"),
    onRunFinalized: () => void calls.push("finalized"),
  };
  const end = await agent.runAgent({ runId: "r" }, subscriber).then(
    (result) => `resolved with ${JSON.stringify(result.newMessages[0].content)}`,
    (error) => `rejected with ${error.message}`,
  );
  seen.push(`${name}: ${[end, ...calls].join(", ")}`);
  server.close();
}
console.log(seen.join("; "));
P
npm install --silent --no-audit --no-fund --prefix "$dir" @ag-ui/client@1.0.0 @ag-ui/core@1.0.0 > /dev/null
seen=$(timeout 60 node t.mjs)
echo "seen: $seen"
expected='whole: resolved with "Your order is", finished, finalized; cut: resolved with "Your order is", finalized'
if [ "$seen" = "$expected" ]; then echo "as stated"; else echo "changed"; exit 1; fi
