#!/usr/bin/env bash
# agent-client-protocol 0.12.1 (PyPI, ACP's SDK for Python). 2026-11-29.
# An agent sends six pieces of its answer one after the other, awaiting each. The client's `session_update` waits 50 ms
# for the first, third and fifth, as one that writes to a file or a socket does, and then adds the piece to its text.
# The SDK starts the handler of each update at once, beside those that are still at work: pieces that took longer come
# behind later ones. `prompt()` returns when all are handled, so nothing is missing, and nothing shows the mix.
# Most would expect: updates of one session are handled one after another, as they are sent, or the SDK's page says that
# handlers run side by side. A handler without an `await`, as in its examples, gives the right text.
# Seen: without a wait: 012345; with waits: 135024
# Why an agent runtime meets it: it keeps what a coding agent says in a store before it shows it, so its handler awaits
# for unequal times. Texts, and the states of a tool call (pending, done), end in another order than the agent's.
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT
cd "$dir"
cat > agent.py <<'P'
import asyncio

import acp


class Speaker(acp.Agent):
    def on_connect(self, conn):
        self.client = conn

    async def initialize(self, protocol_version, **_):
        return acp.InitializeResponse(protocol_version=protocol_version)

    async def new_session(self, cwd, **_):
        return acp.NewSessionResponse(session_id="session")

    async def prompt(self, session_id, **_):
        for piece in "012345":
            await self.client.session_update(session_id, acp.update_agent_message(acp.text_block(piece)))
        return acp.PromptResponse(stop_reason="end_turn")


asyncio.run(acp.run_agent(Speaker()))
P
cat > t.py <<'P'
import asyncio
import sys

import acp


class Listener(acp.Client):
    def __init__(self, waits):
        self.waits, self.text = waits, ""

    async def session_update(self, session_id, update, **_):
        piece = update.content.text
        if self.waits and piece in "024":
            await asyncio.sleep(0.05)
        self.text += piece


async def listen(waits):
    listener = Listener(waits)
    async with acp.spawn_agent_process(listener, sys.executable, "agent.py") as (agent, _):
        await agent.initialize(protocol_version=acp.PROTOCOL_VERSION)
        session = await agent.new_session(cwd="/tmp", mcp_servers=[])
        await agent.prompt(session_id=session.session_id, prompt=[acp.text_block("speak")])
        return listener.text


print(f"without a wait: {asyncio.run(listen(False))}; with waits: {asyncio.run(listen(True))}")
P
python3 -m venv v
v/bin/pip install -q --disable-pip-version-check agent-client-protocol==0.12.1
seen=$(timeout 60 v/bin/python t.py)
echo "seen: $seen"
if [ "$seen" = "without a wait: 012345; with waits: 135024" ]; then echo "as stated"; else echo "changed"; exit 1; fi
