#!/usr/bin/env bash
# langgraph 1.2.24 (PyPI), checkpoints in memory and in SQLite (langgraph-checkpoint-sqlite 3.1.2). 2026-11-29.
# A node puts a tuple, a tuple within a dict, a Counter and a defaultdict into the state. The next node gets them as they
# are. If it asks a person by `interrupt()`, it runs again with the state of the checkpoint, where the tuples are lists
# and the others plain dicts: a missing key, which was 0 or an empty list before, raises now. Sets, named tuples, decimals,
# dates and dataclasses come back as they were, and nothing warns.
# Most would expect: a state comes back with its types, as the rest does, or is refused when it is written down.
# Seen: first: tuple, tuple, Counter, defaultdict, set, Decimal; resumed in memory and from SQLite: list, list, dict, dict, set, Decimal
# Why an agent runtime meets it: code behind an approval runs once before it and once behind it. Tests without a pause see
# the first state alone; a pair as the key of a dict, or a Counter of tries, fails for those tasks that a person approved.
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT
cd "$dir"
cat > t.py <<'P'
from collections import Counter, defaultdict
from decimal import Decimal
from typing import Any, TypedDict

from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.graph import START, StateGraph
from langgraph.types import Command, interrupt

seen = []


class State(TypedDict):
    values: Any


def fill(state):
    values = [(1, 2), {"pair": (1, 2)}, Counter("aab"), defaultdict(list, {"a": [1]}), {1, 2}, Decimal("1.10")]
    return {"values": values}


def ask(state):
    values = [value["pair"] if "pair" in value else value for value in state["values"][:2]] + state["values"][2:]
    seen.append(", ".join(type(value).__name__ for value in values))
    interrupt("fine?")


def run(saver):
    seen.clear()
    graph = StateGraph(State)
    graph.add_node("fill", fill)
    graph.add_node("ask", ask)
    graph.add_edge(START, "fill")
    graph.add_edge("fill", "ask")
    app = graph.compile(checkpointer=saver)
    config = {"configurable": {"thread_id": "1"}}
    app.invoke({"values": None}, config)
    app.invoke(Command(resume="yes"), config)
    return tuple(seen)


with SqliteSaver.from_conn_string("state.sqlite") as saver:
    assert (pair := run(InMemorySaver())) == run(saver), seen
print(f"first: {pair[0]}; resumed in memory and from SQLite: {pair[1]}")
P
python3 -m venv v
v/bin/pip install -q --disable-pip-version-check langgraph==1.2.24 langgraph-checkpoint-sqlite==3.1.2
seen=$(timeout 60 v/bin/python -W ignore t.py 2>/dev/null)
echo "seen: $seen"
expected="first: tuple, tuple, Counter, defaultdict, set, Decimal"
expected="$expected; resumed in memory and from SQLite: list, list, dict, dict, set, Decimal"
if [ "$seen" = "$expected" ]; then echo "as stated"; else echo "changed"; exit 1; fi
