#!/usr/bin/env bash
# langgraph 1.2.24 (PyPI). 2026-11-28.
# A node asks by `interrupt()`, and the answer comes by `Command(resume=answer)`. `{}` resumes nothing: the node runs
# again from its start and asks the same question, each time, without an error. None ends the call with an
# UnboundLocalError of the library. False, 0, "" and [] arrive as they are.
# Most would expect: each JSON value is an answer; a form with nothing filled in is one.
# Seen: {"note": "x"}: answered; []: answered; "": answered; 0: answered; false: answered; {}: asks again, node ran 4 times; null: UnboundLocalError
# Why an agent runtime meets it: a person answers by a form whose fields are all optional, or by a button without a
# value, and the page sends {} or null. The task waits for ever, what stands before the question is done again each
# time, and the person is asked once more.
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT
cd "$dir"
cat > t.py <<'P'
import json
from typing import Any, TypedDict

from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, StateGraph
from langgraph.types import Command, interrupt


class State(TypedDict, total=False):
    answer: Any


def outcome(answer):
    runs = 0

    def ask(state):
        nonlocal runs
        runs += 1
        return {"answer": interrupt("Anything to add?")}

    graph = StateGraph(State)
    graph.add_node("ask", ask)
    graph.add_edge(START, "ask")
    app, thread = graph.compile(InMemorySaver()), {"configurable": {"thread_id": "t"}}
    app.invoke({}, thread)
    for _ in range(3):
        try:
            app.invoke(Command(resume=answer), thread)
        except Exception as error:
            return type(error).__name__
        state = app.get_state(thread)
        if not state.interrupts:
            return "answered" if state.values["answer"] == answer else "another answer"
    return f"asks again, node ran {runs} times"


print("; ".join(f"{json.dumps(answer)}: {outcome(answer)}" for answer in ({"note": "x"}, [], "", 0, False, {}, None)))
P
python3 -m venv v
v/bin/pip install -q --disable-pip-version-check langgraph==1.2.24
seen=$(timeout 60 v/bin/python t.py 2>/dev/null)
echo "seen: $seen"
expected='{"note": "x"}: answered; []: answered; "": answered; 0: answered; false: answered; {}: asks again, node ran 4 times; null: UnboundLocalError'
if [ "$seen" = "$expected" ]; then echo "as stated"; else echo "changed"; exit 1; fi
