#!/usr/bin/env bash
# pydantic-ai-slim 2.68.0 and openai-agents 0.24.0 (PyPI), on chat completions. 2026-11-28.
# A server streams two tool calls side by side, each with an id of its own and both with index 0, as several servers
# behind OpenAI's API do. pydantic-ai joins the names to one
# tool `paypay`, and openai-agents joins the arguments to what is no JSON; neither pays anything. Each tells the model of
# one failed call with the second id, as if the model had made the mistake.
# Most would expect: another id begins another call, as in a reply that is not streamed, or an error names the reply.
# Seen: pydantic_ai: paid none, model hears of paypay by c2;
#   openai_agents: paid none, model hears of an error by c2
# Why an agent runtime meets it: agents stream by default, models call tools side by side, and local servers number them
# so. The model asks again in the same way until its limit of turns, and each turn is paid.
# Needs no provider: a server on 127.0.0.1 answers.
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT
cd "$dir"
cat > t.py <<'P'
import asyncio
import http.server
import json
import sys
import threading

paid, heard = [], []


async def pay(order: str) -> str:
    """Pay an order."""
    paid.append(order)
    return "paid"


def call(number):
    function = {"name": "pay", "arguments": json.dumps({"order": f"A-{number}"})}
    return {"index": 0, "id": f"c{number}", "type": "function", "function": function}


class Provider(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        heard[:] = [message for message in asked["messages"] if message["role"] == "tool"]
        messages, reason = [{"role": "assistant", "content": "Well."}], "stop"
        if not heard:
            messages = [{"role": "assistant", "content": None, "tool_calls": [call(n)]} for n in (1, 2)]
            reason = "tool_calls"
        reply = {"id": "r", "created": 1, "model": "m", "object": "chat.completion.chunk"}
        body = ""
        for message in [*messages, {}]:
            choice = {"index": 0, "delta": message, "finish_reason": None if message else reason}
            body += f"data: {json.dumps(reply | {'choices': [choice]})}\n\n"
        body += "data: [DONE]\n\n"
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *words):
        pass


async def pydantic_ai(url):
    from pydantic_ai import Agent
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.providers.openai import OpenAIProvider

    agent = Agent(OpenAIChatModel("m", provider=OpenAIProvider(base_url=url, api_key="none")), tools=[pay])
    async with agent.run_stream("Pay.") as run:
        await run.get_output()


async def openai_agents(url):
    from agents import Agent, OpenAIChatCompletionsModel, Runner, function_tool, set_tracing_disabled
    from openai import AsyncOpenAI

    set_tracing_disabled(True)
    model = OpenAIChatCompletionsModel("m", AsyncOpenAI(base_url=url, api_key="none"))
    agent = Agent("a", model=model, tools=[function_tool(pay)])
    async for _ in Runner.run_streamed(agent, "Pay.").stream_events():
        pass


async def main():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Provider)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    await globals()[sys.argv[1]](f"http://127.0.0.1:{server.server_port}/v1")
    words = [f"{'paypay' if 'paypay' in str(m['content']) else 'an error'} by {m['tool_call_id']}" for m in heard]
    print(f"{sys.argv[1]}: paid {' '.join(paid) or 'none'}, model hears of {' and '.join(words)}")


asyncio.run(main())
P
python3 -m venv v
v/bin/pip install -q --disable-pip-version-check "pydantic-ai-slim[openai]==2.68.0" openai-agents==0.24.0
seen=$(for name in pydantic_ai openai_agents; do timeout 60 v/bin/python t.py "$name" 2>/dev/null; done)
echo "seen:"; echo "$seen"
expected="pydantic_ai: paid none, model hears of paypay by c2
openai_agents: paid none, model hears of an error by c2"
if [ "$seen" = "$expected" ]; then echo "as stated"; else echo "changed"; exit 1; fi
