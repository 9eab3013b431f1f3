#!/usr/bin/env bash
# langgraph 1.2.24 with openai 3.57.0 and httpx 0.28.1 (PyPI). 2026-11-28.
# A node with the default `RetryPolicy`, three attempts, against a server on 127.0.0.1. A refused key is tried three
# times; a call that `asyncio.timeout` has ended, and a 429 by httpx, are tried once.
# Most would expect: the default retries what passes (timeouts, 429, 503) and not what stays (401, 400).
# Seen: openai 401 x3, openai 400 x3, openai 429 x3, httpx 401 x1, httpx 429 x1, httpx 503 x3, timeout x1
# Why an agent runtime meets it: it runs nodes that call models and tools, with this policy as the only retry. A passing
# fault ends the run, and a key that is refused is asked again by all runs, where providers count such attempts.
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT
cd "$dir"
cat > t.py <<'P'
import asyncio
import http.server
import threading
from typing import TypedDict

import httpx
import openai
from langgraph.graph import START, StateGraph
from langgraph.types import RetryPolicy

asked = []


class Provider(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        asked.append(1)
        self.send_response(int(self.path.split("/")[1]))
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *words):
        pass


class State(TypedDict):
    text: str


async def by_openai(address):
    client = openai.AsyncOpenAI(base_url=address, api_key="none", max_retries=0)
    await client.chat.completions.create(model="m", messages=[{"role": "user", "content": "Hello."}])


async def by_httpx(address):
    async with httpx.AsyncClient() as client:
        (await client.post(address, content=b"{}")).raise_for_status()


async def too_slow(address):
    asked.append(1)
    async with asyncio.timeout(0.1):
        await asyncio.sleep(5)


async def main():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Provider)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    seen = []
    calls = [("openai", by_openai, status) for status in (401, 400, 429)]
    calls += [("httpx", by_httpx, status) for status in (401, 429, 503)] + [("timeout", too_slow, None)]
    for name, call, status in calls:
        asked.clear()

        async def node(state):
            await call(f"http://127.0.0.1:{server.server_port}/{status}")

        graph = StateGraph(State)
        graph.add_node("node", node, retry_policy=RetryPolicy(initial_interval=0.01))
        graph.add_edge(START, "node")
        try:
            await graph.compile().ainvoke({"text": "Hello."})
        except (openai.APIStatusError, httpx.HTTPStatusError, TimeoutError):
            seen.append(f"{name} {status or ''}".strip() + f" x{len(asked)}")
    print(", ".join(seen))


asyncio.run(main())
P
python3 -m venv v
v/bin/pip install -q --disable-pip-version-check langgraph==1.2.24 openai==3.57.0 httpx==0.28.1
seen=$(timeout 90 v/bin/python t.py 2>/dev/null)
echo "seen: $seen"
expected="openai 401 x3, openai 400 x3, openai 429 x3, httpx 401 x1, httpx 429 x1, httpx 503 x3, timeout x1"
if [ "$seen" = "$expected" ]; then echo "as stated"; else echo "changed"; exit 1; fi
