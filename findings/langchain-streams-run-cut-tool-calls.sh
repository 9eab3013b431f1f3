#!/usr/bin/env bash
# langchain 1.5.2, langchain-core 1.8.3, langchain-openai 1.7.4 (PyPI). 2026-11-28.
# A reply ends at its limit of tokens (finish_reason "length") in the middle of a tool call's arguments. By `ainvoke`
# the agent calls no tool. By `astream` with stream_mode "messages" it closes the JSON by itself and calls the tool with
# the half that is there: a text that stops in a word, and defaults in place of the arguments that were still to come.
# Most would expect: half a call is an error in both, or is asked for again; streaming changes only when text is shown.
# Seen: ainvoke: none; astream: pay('A-17', 5, 'Half now, hal')
# Why an agent runtime meets it: agents stream, and long arguments (files, mails, commands) are just what meets the limit.
# The file is cut off, or the wrong amount is paid, by a call that validates and succeeds.
# Needs no provider: a server on 127.0.0.1 answers.
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT
cd "$dir"
cat > t.py <<'P'
import asyncio
import http.server
import json
import threading

from langchain.agents import create_agent
from langchain_openai import ChatOpenAI

HALF = '{"order": "A-17", "memo": "Half now, hal'  # ... "amount" would have followed
paid = []


def pay(order: str, amount: int = 5, memo: str = "") -> str:
    """Pay an order."""
    paid.append(f"pay{(order, amount, memo)}")
    return "paid"


class Provider(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        message, reason = {"role": "assistant", "content": "Well."}, "stop"
        if asked["messages"][-1]["role"] == "user":
            call = {"index": 0, "id": "c1", "type": "function", "function": {"name": "pay", "arguments": HALF}}
            message, reason = {"role": "assistant", "content": None, "tool_calls": [call]}, "length"
        choice = {"index": 0, "finish_reason": reason}
        reply = {"id": "r", "created": 1, "model": "m"}
        if asked.get("stream"):
            chunk = reply | {"object": "chat.completion.chunk", "choices": [choice | {"delta": message}]}
            kind, body = "text/event-stream", f"data: {json.dumps(chunk)}\n\ndata: [DONE]\n\n"
        else:
            whole = reply | {"object": "chat.completion", "choices": [choice | {"message": message}]}
            kind, body = "application/json", json.dumps(whole)
        self.send_response(200)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *words):
        pass


async def main():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Provider)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    model = ChatOpenAI(model="m", base_url=f"http://127.0.0.1:{server.server_port}/v1", api_key="none")
    agent, request = create_agent(model, [pay]), {"messages": [("user", "Pay A-17.")]}
    await agent.ainvoke(request)
    print(f"ainvoke: {', '.join(paid) or 'none'}", end="; ")
    paid.clear()
    async for _ in agent.astream(request, stream_mode="messages"):
        pass
    print(f"astream: {', '.join(paid) or 'none'}")


asyncio.run(main())
P
python3 -m venv v
v/bin/pip install -q --disable-pip-version-check langchain==1.5.2 langchain-core==1.8.3 langchain-openai==1.7.4
seen=$(timeout 60 v/bin/python t.py 2>/dev/null)
echo "seen: $seen"
expected="ainvoke: none; astream: pay('A-17', 5, 'Half now, hal')"
if [ "$seen" = "$expected" ]; then echo "as stated"; else echo "changed"; exit 1; fi
