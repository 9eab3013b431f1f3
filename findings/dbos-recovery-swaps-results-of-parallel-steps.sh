#!/usr/bin/env bash
# dbos 3.4.0 (PyPI) on SQLite. 2026-11-28.
# A workflow gathers two branches; each asks in a step, formats the answer, and books in a step. DBOS numbers steps in
# the order in which they begin, and compares a recorded step by its function's name alone. The process dies when all
# four are recorded. On recovery the formatting is ready in the other order, so that each branch gets the booking of
# the other, and the workflow ends as SUCCESS, without an error or warning.
# Most would expect: the result that was recorded for these arguments, or the error for workflows that are not
# deterministic, which DBOS raises where the names differ.
# Seen: ran: book b for b; book a for a; died; recovered: SUCCESS, a has booked b for b, b has booked a for a
# Why an agent runtime meets it: tool calls and sub-agents side by side are such branches, and replies of models come
# in any order. A crash then gives one customer's booking to the other's conversation.
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT
cd "$dir"
cat > t.py <<'P'
import asyncio
import os
import sys

from dbos import DBOS, SetWorkflowID

settings = {"name": "booking", "system_database_url": "sqlite:///dbos.sqlite", "application_version": "1"}
DBOS(config=settings | {"log_level": "CRITICAL", "run_admin_server": False})
slow = "a" if sys.argv[1] == "die" else "b"


@DBOS.step()
async def ask(name):
    return f"for {name}"


@DBOS.step()
async def book(name, answer):
    print(f"book {name} {answer}", end="; ", flush=True)
    return f"booked {name} {answer}"


@DBOS.step()
async def confirm():
    if sys.argv[1] == "die":
        os._exit(9)


async def branch(name):
    answer = await ask(name)
    await asyncio.sleep(2 if name == slow else 0)  # formats it
    return f"{name} has {await book(name, answer)}"


@DBOS.workflow()
async def trip():
    results = await asyncio.gather(branch("a"), branch("b"))
    await confirm()
    return ", ".join(results)


async def main():
    DBOS.launch()
    if sys.argv[1] == "die":
        with SetWorkflowID("trip-1"):
            handle = await DBOS.start_workflow_async(trip)
    else:
        handle = await DBOS.retrieve_workflow_async("trip-1")
    result = await handle.get_result()
    print(f"{(await handle.get_status()).status}, {result}")
    DBOS.destroy()


asyncio.run(main())
P
python3 -m venv v
v/bin/pip install -q --disable-pip-version-check dbos==3.4.0
ran=$(timeout 60 v/bin/python t.py die 2>/dev/null) && exit 1
seen="ran: ${ran}died; recovered: $(timeout 60 v/bin/python t.py recover 2>/dev/null)"
echo "seen: $seen"
expected="ran: book b for b; book a for a; died; recovered: SUCCESS, a has booked b for b, b has booked a for a"
if [ "$seen" = "$expected" ]; then echo "as stated"; else echo "changed"; exit 1; fi
