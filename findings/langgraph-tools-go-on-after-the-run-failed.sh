#!/usr/bin/env bash
# langgraph 1.2.24 (PyPI), its ToolNode; its own nodes, and pydantic-ai-slim 2.68.0, beside it. 2026-11-28.
# A model calls two tools side by side. One raises, `ainvoke` raises the error, and the caller has its answer: the run
# has failed. The other tool runs on in the background and has its effect afterwards. Two nodes of a graph side by side,
# and two tools of pydantic-ai, are treated otherwise: what is under way is cancelled before the error is raised.
# Most would expect: when a run has raised, nothing of it runs any more, as structured concurrency has it, and
# LangGraph's own step of a graph.
# Seen: ToolNode: RuntimeError, then nothing, later paid; nodes: RuntimeError, then cancelled, later cancelled;
#   pydantic-ai: RuntimeError, then cancelled, later cancelled
# Why an agent runtime meets it: a failed run is tried again. The payment of the first try and that of the second then
# run beside each other, or the first comes when its task was already reported as failed, and its result is in no journal.
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv v
v/bin/pip install -q --disable-pip-version-check langgraph==1.2.24 pydantic-ai-slim==2.68.0
cat > t.py <<'P'
import asyncio

from langchain_core.messages import AIMessage
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode
from pydantic_ai import Agent
from pydantic_ai.messages import ModelResponse, ToolCallPart
from pydantic_ai.models.function import FunctionModel


async def outcome(run):
    log, begun, ended = [], asyncio.Event(), asyncio.Event()

    async def pay() -> str:
        """Pay."""
        begun.set()
        try:
            await asyncio.sleep(1)
            log.append("paid")
        except asyncio.CancelledError:
            log.append("cancelled")
            raise
        finally:
            ended.set()
        return "done"

    async def look_up() -> str:
        """Look up."""
        await begun.wait()
        raise RuntimeError

    try:
        await run(pay, look_up)
    except RuntimeError as error:
        result = type(error).__name__
    then = list(log)
    await asyncio.wait_for(ended.wait(), 30)
    return f"{result}, then {' '.join(then) or 'nothing'}, later {' '.join(log)}"


async def tool_node(*tools):
    calls = [{"name": tool.__name__, "args": {}, "id": tool.__name__} for tool in tools]
    graph = StateGraph(MessagesState)
    graph.add_node("tools", ToolNode(list(tools), handle_tool_errors=False))
    graph.add_edge(START, "tools")
    await graph.compile().ainvoke({"messages": [AIMessage("", tool_calls=calls)]})


async def nodes(*tools):
    graph = StateGraph(MessagesState)
    for tool in tools:

        async def node(state, tool=tool):
            await tool()
            return {}

        graph.add_node(tool.__name__, node)
        graph.add_edge(START, tool.__name__)
    await graph.compile().ainvoke({"messages": []})


async def pydantic_ai(*tools):
    model = FunctionModel(lambda *_: ModelResponse(parts=[ToolCallPart(tool.__name__, {}) for tool in tools]))
    await Agent(model, tools=tools).run("Pay")


for name, run in (("ToolNode", tool_node), ("nodes", nodes), ("pydantic-ai", pydantic_ai)):
    print(f"{name}: {asyncio.run(outcome(run))}")
P
seen=$(timeout 300 v/bin/python t.py)
echo "seen:"; echo "$seen"
expected="ToolNode: RuntimeError, then nothing, later paid
nodes: RuntimeError, then cancelled, later cancelled
pydantic-ai: RuntimeError, then cancelled, later cancelled"
if [ "$seen" = "$expected" ]; then echo "as stated"; else echo "changed"; exit 1; fi
