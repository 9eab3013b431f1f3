#!/usr/bin/env bash
# a2a-sdk 1.3.0 (PyPI), its JSON-RPC server. 2026-11-28.
# A message brings a data part with whole numbers. The agent gets floats, and beyond 2^53 other numbers: the SDK holds
# data parts and metadata in protobuf's Value, whose only number is a double. What the agent sends back goes the same way.
# No error or warning. As a text the number arrives as it is.
# Most would expect: a data part is any JSON value (A2A, 4.1.6), so what one agent sends is what the other reads; JSON's
# own readers in Python keep integers.
# Seen: agent reads count 3.0, order 1.2345678901234568e+16, text 12345678901234567;
#   client reads count 3.0, order 1.2345678901234568e+16, text 12345678901234567
# Why an agent runtime meets it: agents hand orders and invoices to one another in data parts, and ids of 64 bits pass
# 2^53. The next agent pays for another order, and a count of 3.0 fails where an int is asked for.
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv v
v/bin/pip install -q --disable-pip-version-check 'a2a-sdk[http-server]==1.3.0' httpx==0.28.1
cat > t.py <<'P'
import asyncio
import json
import logging

import httpx
from a2a.helpers import new_message
from a2a.server.agent_execution import AgentExecutor
from a2a.server.request_handlers import DefaultRequestHandler
from a2a.server.routes import create_jsonrpc_routes
from a2a.server.tasks import InMemoryTaskStore
from a2a.types import AgentCapabilities, AgentCard, Role
from google.protobuf.json_format import MessageToDict
from starlette.applications import Starlette

DATA = {"count": 3, "order": 12345678901234567, "text": "12345678901234567"}


def show(data):
    return ", ".join(f"{name} {data[name]}" for name in DATA)


class Echo(AgentExecutor):
    async def execute(self, context, event_queue):
        part = context.message.parts[0]
        print(f"agent reads {show(MessageToDict(part.data))}")
        await event_queue.enqueue_event(new_message([part], role=Role.ROLE_AGENT))

    async def cancel(self, context, event_queue):
        raise NotImplementedError


card = AgentCard(name="echo", description="Echo", version="1", capabilities=AgentCapabilities())
logging.disable()  # it warns that this card lacks fields
handler = DefaultRequestHandler(Echo(), InMemoryTaskStore(), card)
app = Starlette(routes=create_jsonrpc_routes(handler, "/"))
request = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "SendMessage",
    "params": {"message": {"messageId": "m", "role": "ROLE_USER", "parts": [{"data": DATA}]}},
}


async def main():
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1") as client:
        reply = await client.post("/", json=request, headers={"A2A-Version": "1.0"}, timeout=30)
    print(f"client reads {show(json.loads(reply.text)['result']['message']['parts'][0]['data'])}")


asyncio.run(main())
P
seen=$(timeout 300 v/bin/python t.py)
echo "seen:"; echo "$seen"
expected="agent reads count 3.0, order 1.2345678901234568e+16, text 12345678901234567
client reads count 3.0, order 1.2345678901234568e+16, text 12345678901234567"
if [ "$seen" = "$expected" ]; then echo "as stated"; else echo "changed"; exit 1; fi
