"""LangGraph with its SQLite saver and `durability="sync"`: a library, run by this process."""

from __future__ import annotations

import asyncio
import itertools
import operator
from typing import Annotated, Any, TypedDict

from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver  # pyrefly: ignore[missing-import]
from langgraph.graph import END, START, StateGraph  # pyrefly: ignore[missing-import]

from benchmarks.agent_task import drive, job


class State(TypedDict):
    """The conversation."""

    messages: Annotated[list[Any], operator.add]


async def model(state: State) -> dict[str, Any]:
    return {"messages": [await job.ask(state["messages"])]}


async def tool(state: State) -> dict[str, Any]:
    calls = state["messages"][-1]["tool_calls"]
    return {"messages": [job.result(call, await job.lookup(**job.arguments(call))) for call in calls]}


def after_model(state: State) -> str:
    return "tool" if state["messages"][-1].get("tool_calls") else END


async def main() -> None:
    graph = StateGraph(State)
    graph.add_node("model", model)
    graph.add_node("tool", tool)
    graph.add_edge(START, "model")
    graph.add_edge("tool", "model")
    graph.add_conditional_edges("model", after_model)
    async with (
        drive.running() as running,
        AsyncSqliteSaver.from_conn_string(str(running.folder / "checkpoints.db")) as saver,
    ):
        await saver.setup()
        app = graph.compile(checkpointer=saver)
        numbers = itertools.count()

        async def submit() -> None:
            thread = {"configurable": {"thread_id": str(next(numbers))}}
            state = await app.ainvoke({"messages": job.MESSAGES}, thread, durability="sync")
            assert state["messages"][-1]["content"]

        await drive.measure(submit, running)


if __name__ == "__main__":
    asyncio.run(main())
