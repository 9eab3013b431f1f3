"""Agents of frameworks by themselves, as documented: run by the interpreter of their own environment.

Each begins its work, or goes on by what its framework keeps: LangGraph a checkpointer, the OpenAI Agents SDK
a session, the ADK a session with a resumable invocation. pydantic-ai and the Agent Framework keep nothing of
an agent's run without an engine or a workflow around it. A question to a person is a file.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

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


async def with_agent_framework() -> str:
    from agent_framework import Agent, AgentSession, Message, tool
    from agent_framework.openai import OpenAIChatCompletionClient

    mode = "always_require" if ASKS else "never_require"
    agent = Agent(
        OpenAIChatCompletionClient(model="crash", base_url=f"{URL}/v1", api_key="sk-crash"),
        INSTRUCTIONS,
        tools=[look_up, tool(refund, approval_mode=mode), notify],
    )
    session = AgentSession(session_id="task")
    response = await agent.run(TASK, session=session)
    while requests := response.user_input_requests:
        await ask_person()
        answers = [request.to_function_approval_response(True) for request in requests]
        response = await agent.run(Message("user", answers), session=session)
    return str(response.text)


async def with_google_adk() -> str:
    from anthropic import AsyncAnthropic
    from google.adk.agents import LlmAgent
    from google.adk.apps import App, ResumabilityConfig
    from google.adk.models.anthropic_llm import AnthropicLlm
    from google.adk.runners import Runner
    from google.adk.sessions.sqlite_session_service import SqliteSessionService
    from google.adk.tools import FunctionTool
    from google.genai import types

    model = AnthropicLlm(model="crash", client=AsyncAnthropic(base_url=URL, api_key="sk-crash"))
    tools = [look_up, FunctionTool(refund, require_confirmation=ASKS), notify]
    agent = LlmAgent(name="clerk", model=model, instruction=INSTRUCTIONS, tools=tools)
    app = App(name="crash", root_agent=agent, resumability_config=ResumabilityConfig(is_resumable=True))
    sessions = SqliteSessionService(str(FOLDER / "session.db"))
    who = {"app_name": "crash", "user_id": "ada", "session_id": "task"}
    session = await sessions.get_session(**who) or await sessions.create_session(**who)
    runner = Runner(app=app, session_service=sessions)
    events, message = session.events, types.Content(role="user", parts=[types.Part(text=TASK)])
    while True:
        if (question := open_confirmation(events)) is not None:
            await ask_person()
            reply = types.FunctionResponse(id=question.id, name=question.name, response={"confirmed": True})
            message = types.Content(role="user", parts=[types.Part(function_response=reply)])
        elif events:  # it goes on with the invocation
            message = None
        invocation = {"invocation_id": events[0].invocation_id} if events else {}
        work = runner.run_async(user_id="ada", session_id="task", new_message=message, **invocation)
        async for _ in work:
            pass
        session = await sessions.get_session(**who)  # it has the answers too
        assert session is not None
        events = session.events
        if open_confirmation(events) is None:
            texts = [part.text for event in events if event.content for part in event.content.parts]
            return str([text for text in texts if text][-1])


def open_confirmation(events: list[Any]) -> Any:
    """The call by which the ADK asks whether a tool may run, if it is not answered."""
    answered = {answer.id for event in events for answer in event.get_function_responses()}
    calls = [call for event in events for call in event.get_function_calls()]
    asks = [call for call in calls if call.name == "adk_request_confirmation" and call.id not in answered]
    return asks[-1] if asks else None


RUNS = {
    "pydantic-ai": with_pydantic_ai,
    "openai-agents": with_openai_agents,
    "langgraph": with_langgraph,
    "agent-framework": with_agent_framework,
    "google-adk": with_google_adk,
}

if __name__ == "__main__":
    answer = asyncio.run(RUNS[sys.argv[1]]())
    (FOLDER / "done").write_text(json.dumps(answer))
