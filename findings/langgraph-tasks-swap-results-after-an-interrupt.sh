#!/usr/bin/env bash
# langgraph 1.2.24 (PyPI), functional API, checkpoints in memory. 2026-11-29.
# An entrypoint gathers two branches; each asks in a task, formats the answer, and books in a task. Then it asks a person
# by `interrupt()`. When the person has answered, the entrypoint runs again with the recorded results. LangGraph finds
# these by the number of the call, whatever its name and arguments: the formatting is ready in the other order this time,
# and each branch gets the booking of the other. Nothing crashed, no task runs again, and there is no error.
# Most would expect: the result that was recorded for these arguments, or an error where the call is another one. The
# documentation asks for the same order of interrupts, and says of tasks that their results are not computed again.
# Seen: before: book b, book a; resumed: a has "b for b", b has "a for a"
# Why an agent runtime meets it: sub-agents and tools side by side are such branches, replies of models come in any
# order, and an approval is where most runs are resumed. One customer's booking goes on in the other's conversation.
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT
cd "$dir"
cat > t.py <<'P'
import asyncio

from langgraph.checkpoint.memory import InMemorySaver
from langgraph.func import entrypoint, task
from langgraph.types import Command, interrupt

slow = "a"
booked = []


@task
async def ask(name):
    return f"for {name}"


@task
async def book(name, answer):
    booked.append(f"book {name}")
    return f"{name} {answer}"


async def branch(name):
    answer = await ask(name)
    await asyncio.sleep(1 if name == slow else 0)  # formats it
    return f'{name} has "{await book(name, answer)}"'


@entrypoint(checkpointer=InMemorySaver())
async def trip(_):
    results = await asyncio.gather(branch("a"), branch("b"))
    interrupt("fine?")
    return ", ".join(results)


async def main():
    global slow
    config = {"configurable": {"thread_id": "1"}}
    await trip.ainvoke("", config)
    before = ", ".join(booked)
    slow = "b"
    result = await trip.ainvoke(Command(resume="yes"), config)
    assert len(booked) == 2
    print(f"before: {before}; resumed: {result}")


asyncio.run(main())
P
python3 -m venv v
v/bin/pip install -q --disable-pip-version-check langgraph==1.2.24
seen=$(timeout 60 v/bin/python t.py)
echo "seen: $seen"
if [ "$seen" = 'before: book b, book a; resumed: a has "b for b", b has "a for a"' ]; then echo "as stated"; else echo "changed"; exit 1; fi
