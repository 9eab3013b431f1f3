"""The agents that come with Meshwright: what they can do, their tools, their tags."""

import ast
import inspect
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import pytest

from meshwright import Agent, Task
from meshwright.agents.loader import BoundAgent, bind_agents, load_agents
from meshwright.prompts import Prompts
from meshwright.testing import ScriptedModel, mesh_for, tool_call
from meshwright.tools import ToolSettings

ROOT = Path(__file__).parents[2]
SHIPPED = ("simple-agent", "researcher-agent", "architect-agent", "api-coder")
READING = {"list_files", "read_file", "search_files", "git_log", "git_diff"}


@pytest.fixture(scope="module")
def classes() -> dict[str, type[Agent]]:
    loaded = {each.agent_id: each for each in load_agents(ROOT / "actors")}
    return {agent_id: loaded[agent_id] for agent_id in SHIPPED}  # there may be others beside them


@pytest.fixture(scope="module")
def agents(classes: Mapping[str, type[Agent]]) -> dict[str, BoundAgent]:
    return bind_agents(list(classes.values()), ToolSettings(workspace=ROOT))


def task(text: str) -> Task:
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    return Task(
        task_id="t",
        capability="c",
        thread_id="t",
        deadline_at=moment,
        created_at=moment,
        payload={"text": text},
    )


@pytest.mark.parametrize(
    ("agent_id", "capabilities"),
    [
        ("simple-agent", {"general-query"}),
        ("researcher-agent", {"deep-research", "market-analysis", "technical-research"}),
        ("architect-agent", {"tech-consultation", "architecture-review"}),
        ("api-coder", {"api-design", "backend-coding", "code-review", "bug-fix"}),
    ],
)
def test_each_agent_declares_what_it_can_do(
    classes: Mapping[str, type[Agent]], agent_id: str, capabilities: set[str]
) -> None:
    assert {capability.name for capability in classes[agent_id].capabilities} == capabilities
    assert classes[agent_id].__doc__


@pytest.mark.parametrize(
    ("agent_id", "tools"),
    [
        ("simple-agent", set()),
        ("researcher-agent", READING | {"fetch_page", "remember"}),
        ("architect-agent", READING | {"delegate", "remember"}),
        ("api-coder", READING | {"remember"}),
    ],
)
def test_each_agent_has_its_tools(agents: Mapping[str, BoundAgent], agent_id: str, tools: set[str]) -> None:
    assert set(agents[agent_id].tools) == tools


def test_the_architect_may_ask_the_researcher_and_nobody_else(agents: Mapping[str, BoundAgent]) -> None:
    delegate = agents["architect-agent"].tools["delegate"]
    assert delegate.parameters["properties"]["agent_id"]["const"] == "researcher-agent"


def test_each_agent_has_a_prompt_of_its_own(classes: Mapping[str, type[Agent]]) -> None:
    told: list[str] = []
    prompts = Prompts(ROOT / "prompts", on_event=lambda event_type, payload: told.append(event_type))
    assert {prompts.resolve(each.prompt).source for each in classes.values()} == {"file"}
    assert told == []


@pytest.mark.parametrize("agent_id", SHIPPED)
def test_an_agent_takes_of_meshwright_the_public_names_alone(
    classes: Mapping[str, type[Agent]], agent_id: str
) -> None:
    imported = modules_of(Path(inspect.getfile(classes[agent_id])).read_text())
    assert {module for module in imported if module.partition(".")[0] not in sys.stdlib_module_names} <= {
        "meshwright",
        "meshwright.tools",
    }


def modules_of(code: str) -> set[str]:
    nodes = list(ast.walk(ast.parse(code)))
    plain = {name.name for node in nodes if isinstance(node, ast.Import) for name in node.names}
    return plain | {str(node.module) for node in nodes if isinstance(node, ast.ImportFrom)}


@pytest.mark.parametrize(
    ("text", "tag"),
    [
        ("", "cheap"),
        ("What is a fence?", "cheap"),
        ("Which file holds the event log, and what does its schema say about sequence numbers?", "cheap"),
        ("What is Dapr? Who makes it?", "cheap"),
        ("Compare SQLite with Redis for the journal", "expensive"),
        ("What are the trade-offs of one writer thread?", "expensive"),
        ("Why is the commit rate twice as high with one connection?", "expensive"),
        ("What is it? Who makes it? What does it cost?", "expensive"),
        ("word " * 70, "expensive"),
    ],
)
def test_the_researcher_takes_a_strong_model_for_complex_questions_only(
    agents: Mapping[str, BoundAgent], text: str, tag: str
) -> None:
    assert agents["researcher-agent"].agent.tags(task(text)) == ["research", tag]


def test_the_others_leave_their_tags_to_their_prompts(agents: Mapping[str, BoundAgent]) -> None:
    others = [each.agent for agent_id, each in agents.items() if agent_id != "researcher-agent"]
    assert [agent.tags(task("Compare them")) for agent in others] == [None, None, None]


async def test_the_researcher_reads_before_it_answers() -> None:
    model = ScriptedModel()
    model.replies(
        tool_call("search_files", query="Apache License", pattern="LICENSE"),
        tool_call("read_file", path="LICENSE", max_lines=3),
        "It is the Apache License.",
    )
    async with mesh_for(model=model, project=ROOT) as mesh:
        outcome = await mesh.ask("researcher-agent", "Compare the license with MIT")
        assert mesh.events("tool.called").names == ["search_files", "read_file"]
        assert {event.payload["ok"] for event in mesh.events("tool.called")} == {True}
    assert outcome.text == "It is the Apache License."
    assert "Apache License" in model.requests[2].messages[-1].content
    assert {(request.user, request.tags) for request in model.requests} == {
        ("researcher-agent", ("research", "expensive"))
    }


async def test_a_refused_argument_goes_back_to_the_model_and_the_run_goes_on() -> None:
    model = ScriptedModel()
    model.replies(tool_call("read_file", path="/etc/hostname"), tool_call("read_file", file="x"), "I cannot.")
    async with mesh_for(model=model, project=ROOT) as mesh:
        outcome = await mesh.ask("api-coder", "Read my host's name")
        assert [event.payload["ok"] for event in mesh.events("tool.called")] == [False, False]
    assert outcome.success
    assert "leads out of the workspace" in model.requests[1].messages[-1].content
    assert "path: Field required" in model.requests[2].messages[-1].content


async def test_the_architect_gets_the_researchers_answer_back_into_its_own_run() -> None:
    model = ScriptedModel()
    model.replies(
        tool_call("delegate", agent_id="researcher-agent", text="What is a fence?"),
        tool_call("list_files", pattern="LICENSE"),
        "A fence is a number: keep it.",
        to="architect-agent",
    )
    model.replies("A fence is a number.", to="researcher-agent")
    async with mesh_for(model=model, project=ROOT) as mesh:
        outcome = await mesh.ask("architect-agent", "Review the fences")
        assert len(mesh.events("task.waiting")) == 1
    assert outcome.text == "A fence is a number: keep it."
    told = [request for request in model.requests if request.user == "architect-agent"][-1].messages
    assert next(message.content for message in told if message.role == "tool") == "A fence is a number."
