"""Agents with what frameworks have besides tools: handoffs, guardrails, interrupts, MCP, streams."""

import operator
import os
import sys
from functools import partial
from pathlib import Path
from typing import Annotated, Any, TypedDict

import agents
from _places import hold, note
from langchain_openai import ChatOpenAI
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, StateGraph
from langgraph.types import Command, interrupt
from pydantic_ai import Agent as PydanticAgent
from pydantic_ai.mcp import MCPToolset, StdioTransport
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider
from pydantic_ai.toolsets import FunctionToolset

from meshwright import Agent, Capability, Run, ToolContext, tool
from meshwright.pydantic_ai import MeshDurability

FOLDER = Path(os.environ["SHOP_FOLDER"])


class Charging:
    """Has a tool in which a task can be held."""

    @tool()
    async def charge(self, cents: int, context: ToolContext) -> str:
        """Charge the card of the customer."""
        note(context.task, f"charge {cents}")
        await hold(context.task, "charge:after")
        return f"charged {cents}"


class Desk(Charging, Agent):
    """OpenAI Agents: hands over to a seller, behind a guardrail that asks a model, with a session."""

    agent_id = "desk"
    capabilities = (Capability("greeting"),)

    async def run(self, run: Run) -> str:
        agents.set_tracing_disabled(True)
        model = agents.OpenAIChatCompletionsModel("default", run.openai())
        tools = [agents.function_tool(function) for function in run.functions()]
        guard = agents.Agent(name="guard", instructions="You guard.", model=model)

        @agents.input_guardrail
        async def is_polite(_: Any, __: Any, text: Any) -> agents.GuardrailFunctionOutput:
            answer = await agents.Runner.run(guard, text)
            return agents.GuardrailFunctionOutput(answer.final_output, answer.final_output != "polite")

        seller = agents.Agent(name="seller", instructions="You sell.", model=model, tools=tools)
        desk = agents.Agent(
            name="desk",
            instructions="You greet.",
            model=model,
            handoffs=[seller],
            input_guardrails=[is_polite],
        )
        session = agents.SQLiteSession(run.task.task_id)
        first = await agents.Runner.run(desk, run.task.text, session=session)
        second = await agents.Runner.run(first.last_agent, "Thank you.", session=session)
        return f"{first.final_output} {second.final_output}"


class Notes(TypedDict):
    notes: Annotated[list[str], operator.add]


class Review(Agent):
    """LangGraph: two nodes side by side, then a person is asked."""

    agent_id = "review"
    capabilities = (Capability("reviewing"),)

    async def run(self, run: Run) -> str:
        client = run.openai()
        clients: dict[str, Any] = {"async_client": client.chat.completions, "root_async_client": client}
        model = ChatOpenAI(model="default", api_key="run", **clients)

        async def read(view: str, state: Notes) -> dict[str, Any]:
            reply = await model.ainvoke([("system", f"You read for {view}."), ("user", run.task.text)])
            return {"notes": [reply.content]}

        async def decide(state: Notes) -> dict[str, Any]:
            return {"notes": [interrupt(", ".join(state["notes"]))]}

        graph = StateGraph(Notes).add_node("ask", decide)
        for view in ("style", "facts"):
            graph.add_node(view, partial(read, view)).add_edge(START, view)
        app = graph.add_edge(["style", "facts"], "ask").compile(checkpointer=InMemorySaver())
        thread: Any = {"configurable": {"thread_id": run.task.task_id}}
        state = await app.ainvoke({"notes": []}, thread)
        while waiting := state.get("__interrupt__"):
            answer = await run.ask_person(waiting[0].value)
            state = await app.ainvoke(Command(resume=answer), thread)
        return "; ".join(state["notes"])


SHELF = MCPToolset(
    StdioTransport(sys.executable, [str(FOLDER / "library_server.py")], env=dict(os.environ)), id="shelf"
)
librarian = PydanticAgent(
    name="librarian", instructions="You lend.", toolsets=[SHELF], capabilities=[MeshDurability()]
)


class Library(Agent):
    """pydantic-ai: tools of an MCP server, and one of the mesh beside them."""

    agent_id = "library"
    capabilities = (Capability("lending"),)

    @tool()
    async def remind(self, days: int, context: ToolContext) -> str:
        """Send a reminder in some days."""
        note(context.task, f"remind {days}")
        return "I will."

    async def run(self, run: Run) -> str:
        own = FunctionToolset(run.functions(), metadata={"mesh": False})
        return (await librarian.run(run.task.text, toolsets=[own])).output


class Radio(Charging, Agent):
    """pydantic-ai: a stream of the answer."""

    agent_id = "radio"
    capabilities = (Capability("speaking"),)

    async def run(self, run: Run) -> str:
        model = OpenAIChatModel("default", provider=OpenAIProvider(openai_client=run.openai()))
        speaker = PydanticAgent(model, instructions="You speak.", tools=run.functions("charge"))
        async with speaker.run_stream(run.task.text) as result:
            return "".join([piece async for piece in result.stream_text(delta=True, debounce_by=None)])


class Ticker(Charging, Agent):
    """OpenAI Agents: a stream of events."""

    agent_id = "ticker"
    capabilities = (Capability("reporting"),)

    async def run(self, run: Run) -> str:
        agents.set_tracing_disabled(True)
        model = agents.OpenAIChatCompletionsModel("default", run.openai())
        tools = [agents.function_tool(function) for function in run.functions("charge")]
        reporter = agents.Agent(name="reporter", instructions="You report.", model=model, tools=tools)
        pieces = []
        async for event in agents.Runner.run_streamed(reporter, run.task.text).stream_events():
            if event.type == "raw_response_event" and event.data.type == "response.output_text.delta":
                pieces.append(event.data.delta)
        return "".join(pieces)
