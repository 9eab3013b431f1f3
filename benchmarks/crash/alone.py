"""Agents of frameworks by themselves, as documented: run by the interpreter of their own environment.

Each begins its work, or goes on by what its framework keeps: LangGraph a checkpointer, the OpenAI Agents SDK
a session; pydantic-ai keeps nothing without an engine beside it. A question to a person is a file.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

from benchmarks.crash.shop_tools import INSTRUCTIONS, TASK, act

FOLDER = Path(os.environ["CRASH_FOLDER"])
URL = os.environ["PROVIDER_URL"]
ASKS = os.environ.get("CRASH_ASKS") == "1"
_LOOK_SECONDS = 0.05


async def look_up(order: str) -> str:
    """Look up an order."""
    return await act("look_up")


async def refund(payment: str, cents: int) -> str:
    """Refund a payment."""
    return await act("refund")


async def notify(customer: str) -> str:
    """Notify a customer."""
    return await act("notify")


async def ask_person() -> None:
    """Ask by a file, and wait for the answer."""
    with (FOLDER / "questions").open("a") as questions:
        questions.write("May it?\n")
    while not await asyncio.to_thread((FOLDER / "answer").exists):  # noqa: ASYNC110 - there is only a file
        await asyncio.sleep(_LOOK_SECONDS)


async def with_pydantic_ai() -> str:
    from pydantic_ai import Agent, DeferredToolRequests, DeferredToolResults, Tool
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.providers.openai import OpenAIProvider

    model = OpenAIChatModel("crash", provider=OpenAIProvider(base_url=f"{URL}/v1", api_key="sk-crash"))
    tools = [look_up, Tool(refund, requires_approval=ASKS), notify]
    agent = Agent(model, instructions=INSTRUCTIONS, tools=tools, output_type=[str, DeferredToolRequests])
    result = await agent.run(TASK)
    while isinstance(result.output, DeferredToolRequests):
        await ask_person()
        approvals = {call.tool_call_id: True for call in result.output.approvals}
        result = await agent.run(
            message_history=result.all_messages(),
            deferred_tool_results=DeferredToolResults(approvals=approvals),
        )
    return str(result.output)


async def with_openai_agents() -> str:
    from agents import (
        Agent,
        OpenAIChatCompletionsModel,
        Runner,
        SQLiteSession,
        function_tool,
        set_tracing_disabled,
    )
    from openai import AsyncOpenAI

    set_tracing_disabled(True)
    client = AsyncOpenAI(base_url=f"{URL}/v1", api_key="sk-crash")
    tools = [function_tool(look_up), function_tool(refund, needs_approval=ASKS), function_tool(notify)]
    model = OpenAIChatCompletionsModel("crash", client)
    agent = Agent(name="clerk", instructions=INSTRUCTIONS, model=model, tools=tools)
    session = SQLiteSession("task", FOLDER / "session.db")
    result = await Runner.run(agent, TASK, session=session)
    while result.interruptions:
        await ask_person()
        state = result.to_state()
        for interruption in result.interruptions:
            state.approve(interruption)
        result = await Runner.run(agent, state, session=session)
    return str(result.final_output)


async def with_langgraph() -> str:
    from langchain.agents import create_agent
    from langchain.agents.middleware import HumanInTheLoopMiddleware
    from langchain_openai import ChatOpenAI
    from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
    from langgraph.types import Command

    model = ChatOpenAI(model="crash", base_url=f"{URL}/v1", api_key="sk-crash")
    middleware = [HumanInTheLoopMiddleware(interrupt_on={"refund": True})] if ASKS else []
    config = {"configurable": {"thread_id": "task"}}
    how = {"config": config, "durability": "sync"}  # it keeps a step before it takes the next
    async with AsyncSqliteSaver.from_conn_string(str(FOLDER / "graph.db")) as saver:
        tools = [look_up, refund, notify]
        agent = create_agent(
            model, tools, system_prompt=INSTRUCTIONS, middleware=middleware, checkpointer=saver
        )
        has_begun = (await agent.aget_state(config)).values
        state = await agent.ainvoke(None if has_begun else {"messages": [("user", TASK)]}, **how)
        while "__interrupt__" in state or (await agent.aget_state(config)).interrupts:
            await ask_person()
            state = await agent.ainvoke(Command(resume={"decisions": [{"type": "approve"}]}), **how)
    return str(state["messages"][-1].content)


RUNS = {"pydantic-ai": with_pydantic_ai, "openai-agents": with_openai_agents, "langgraph": with_langgraph}

if __name__ == "__main__":
    answer = asyncio.run(RUNS[sys.argv[1]]())
    (FOLDER / "done").write_text(json.dumps(answer))
