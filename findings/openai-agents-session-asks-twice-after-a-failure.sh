#!/usr/bin/env bash
# openai-agents 0.24.0 (PyPI), SQLiteSession. 2026-11-28.
# `Runner.run(agent, "Pay 5 to Ada", session=session)` fails since the provider answers 503, and is called again, as
# a caller does that retries. The session has kept the first message, so the model now reads the request twice; after
# three failures four times. A run whose tool raises leaves its message in the same way.
# Most would expect: a run that raised leaves the session as it was, or the same call goes on. The documentation says that
# a session keeps new items after each run.
# Seen: try 1: Pay 5 to Ada; try 2: Pay 5 to Ada, Pay 5 to Ada; try 3: Pay 5 to Ada, Pay 5 to Ada, Pay 5 to Ada
# Why an agent runtime meets it: it delivers a task again after a fault, with the same conversation. A model that reads
# the order twice pays twice, and both calls are in order: nothing shows that a retry made them.
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv v
v/bin/pip install -q --disable-pip-version-check openai-agents==0.24.0 openai==3.57.0
cat > t.py <<'P'
import asyncio

from agents import Agent, Model, Runner, SQLiteSession, set_tracing_disabled

set_tracing_disabled(True)


class Unavailable(Model):
    """A provider that answers 503."""

    async def get_response(self, system_instructions, input, *args, **kwargs):
        requests.append([item["content"] for item in input])
        raise ConnectionError

    def stream_response(self, *args, **kwargs):
        raise NotImplementedError


async def main():
    session = SQLiteSession("conversation")
    for _ in range(3):
        try:
            await Runner.run(Agent(name="clerk", model=Unavailable()), "Pay 5 to Ada", session=session)
        except ConnectionError:
            pass


requests = []
asyncio.run(main())
print("; ".join(f"try {number}: {', '.join(texts)}" for number, texts in enumerate(requests, 1)))
P
seen=$(timeout 300 v/bin/python t.py)
echo "seen: $seen"
ask="Pay 5 to Ada"
expected="try 1: $ask; try 2: $ask, $ask; try 3: $ask, $ask, $ask"
if [ "$seen" = "$expected" ]; then echo "as stated"; else echo "changed"; exit 1; fi
