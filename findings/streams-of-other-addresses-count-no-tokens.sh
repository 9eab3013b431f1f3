#!/usr/bin/env bash
# openai-agents 0.24.0, langchain-openai 1.7.4, pydantic-ai-slim 2.68.0 with openai 3.57.0 (PyPI). 2026-11-29.
# The same agent streams at OpenAI's own address and at one of a gateway. A server states the tokens of a stream only if
# `stream_options.include_usage` asks for it. The Agents SDK asks at OpenAI's address alone: at the gateway its usage is
# 0 tokens, without a warning. ChatOpenAI does not ask either once it has a base_url. pydantic-ai asks in both places.
# Most would expect: a gateway with OpenAI's API is told what OpenAI is told, and tokens that are not known are not 0.
# Seen: openai-agents: 12 at OpenAI, 0 at a gateway; langchain-openai: unknown at a gateway; pydantic-ai: 12 at a gateway
# Why an agent runtime meets it: nearly all its calls go through a gateway and are streamed. Budgets and limits that
# count the framework's usage never end a run there, and bills show it first.
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT
cd "$dir"
cat > t.py <<'P'
import asyncio
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import openai
from agents import Agent, OpenAIChatCompletionsModel, Runner, set_tracing_disabled
from langchain_openai import ChatOpenAI
from pydantic_ai import Agent as PydanticAgent
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        head = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
        delta = {"role": "assistant", "content": "hello"}
        chunks = [head | {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]}]
        chunks.append(head | {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
        if (request.get("stream_options") or {}).get("include_usage"):
            usage = {"prompt_tokens": 10, "completion_tokens": 2, "total_tokens": 12}
            chunks.append(head | {"choices": [], "usage": usage})
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        for line in [*map(json.dumps, chunks), "[DONE]"]:
            self.wfile.write(f"data: {line}\n\n".encode())

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
gateway = f"http://127.0.0.1:{server.server_port}/v1"


class ToServer(httpx.AsyncHTTPTransport):
    """Carries calls of any address to the server, so that nothing leaves this machine."""

    async def handle_async_request(self, request):
        request.url = request.url.copy_with(scheme="http", host="127.0.0.1", port=server.server_port)
        return await super().handle_async_request(request)


def client(**address):
    return openai.AsyncOpenAI(api_key="k", http_client=httpx.AsyncClient(transport=ToServer()), **address)


async def count_agents(**address):
    model = OpenAIChatCompletionsModel(model="gpt-4o", openai_client=client(**address))
    result = Runner.run_streamed(Agent(name="a", model=model), "hello")
    async for _ in result.stream_events():
        pass
    return result.context_wrapper.usage.total_tokens


async def count_langchain():
    usages = [chunk.usage_metadata async for chunk in ChatOpenAI(model="m", api_key="k", base_url=gateway).astream("hi")]
    return next((usage["total_tokens"] for usage in usages if usage), "unknown")


async def count_pydantic():
    model = OpenAIChatModel("m", provider=OpenAIProvider(openai_client=client(base_url=gateway)))
    async with PydanticAgent(model).run_stream("hello") as result:
        await result.get_output()
    return result.usage.total_tokens


async def main():
    set_tracing_disabled(True)
    own, other = await count_agents(), await count_agents(base_url=gateway)
    print(
        f"openai-agents: {own} at OpenAI, {other} at a gateway; langchain-openai: {await count_langchain()} at a "
        f"gateway; pydantic-ai: {await count_pydantic()} at a gateway"
    )


asyncio.run(main())
P
python3 -m venv v
v/bin/pip install -q --disable-pip-version-check openai-agents==0.24.0 langchain-openai==1.7.4 \
    'pydantic-ai-slim[openai]==2.68.0' openai==3.57.0
seen=$(env -u OPENAI_BASE_URL -u OPENAI_API_BASE timeout 120 v/bin/python -W ignore t.py 2>/dev/null)
echo "seen: $seen"
expected="openai-agents: 12 at OpenAI, 0 at a gateway; langchain-openai: unknown at a gateway"
if [ "$seen" = "$expected; pydantic-ai: 12 at a gateway" ]; then echo "as stated"; else echo "changed"; exit 1; fi
