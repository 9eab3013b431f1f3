#!/usr/bin/env bash
# openai 3.57.0, pydantic-ai-slim 2.68.0, openai-agents 0.24.0, langchain-openai 1.7.4 (PyPI). 2026-11-28.
# A reply of chat completions streams "Transfer 5 of 50" and ends there: no finish_reason, no [DONE], and a body that ends
# as HTTP asks, as a proxy ends it whose upstream has gone. Each client returns the text as the answer, without an error.
# pydantic-ai even states finish_reason "stop", which nobody sent.
# Most would expect: an error, as for a body that breaks off. OpenAI's API reference has each stream ended by a
# finish_reason and data: [DONE], and that is all that tells half an answer from a whole one.
# Seen: openai, openai helper, openai-agents, langchain: 'Transfer 5 of 50'; pydantic-ai: the same, stop
# Why an agent runtime meets it: gateways restart and providers drop streams while agents run for hours. The half is
# recorded as the result, the task is a success, and no retry, which would have been free of effects, is made.
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv v
v/bin/pip install -q --disable-pip-version-check openai==3.57.0 'pydantic-ai-slim[openai]==2.68.0' \
    openai-agents==0.24.0 langchain-openai==1.7.4
cat > t.py <<'P'
import asyncio
import http.server
import json
import threading

import agents
from langchain_openai import ChatOpenAI
from openai import AsyncOpenAI
from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider


def event(delta):
    choice = {"index": 0, "finish_reason": None, "delta": delta}
    reply = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}
    return f"data: {json.dumps(reply)}\n\n".encode()


class Provider(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        body = event({"role": "assistant", "content": "Transfer "}) + event({"content": "5 of 50"})
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        self.wfile.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body))

    def log_message(self, *args):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Provider)
threading.Thread(target=server.serve_forever, daemon=True).start()
url = f"http://127.0.0.1:{server.server_port}"
request = {"model": "m", "messages": [{"role": "user", "content": "How much?"}]}
agents.set_tracing_disabled(True)


async def by_openai(client):
    stream = await client.chat.completions.create(**request, stream=True)
    return repr("".join([chunk.choices[0].delta.content async for chunk in stream]))


async def by_openai_helper(client):
    async with client.chat.completions.stream(**request) as stream:
        completion = await stream.get_final_completion()
    return repr(completion.choices[0].message.content)


async def by_openai_agents(client):
    agent = agents.Agent(name="clerk", model=agents.OpenAIChatCompletionsModel("m", client))
    result = agents.Runner.run_streamed(agent, "How much?")
    async for _ in result.stream_events():
        pass
    return repr(result.final_output)


async def by_langchain(client):
    model = ChatOpenAI(model="m", api_key="none", base_url=url, max_retries=0)
    return repr("".join([chunk.content async for chunk in model.astream("How much?")]))


async def by_pydantic_ai(client):
    model = OpenAIChatModel("m", provider=OpenAIProvider(openai_client=client))
    async with Agent(model).run_stream("How much?") as result:
        return f"{await result.get_output()!r}, {result.response.finish_reason}"


async def main():
    client = AsyncOpenAI(api_key="none", base_url=url, max_retries=0)
    for ask in (by_openai, by_openai_helper, by_openai_agents, by_langchain, by_pydantic_ai):
        try:
            outcome = await ask(client)
        except Exception as error:
            outcome = type(error).__name__
        print(f"{ask.__name__}: {outcome}")


asyncio.run(main())
P
seen=$(timeout 300 v/bin/python t.py)
echo "seen:"; echo "$seen"
expected="by_openai: 'Transfer 5 of 50'
by_openai_helper: 'Transfer 5 of 50'
by_openai_agents: 'Transfer 5 of 50'
by_langchain: 'Transfer 5 of 50'
by_pydantic_ai: 'Transfer 5 of 50', stop"
if [ "$seen" = "$expected" ]; then echo "as stated"; else echo "changed"; exit 1; fi
