"""The agents that come with Meshwright: what they can do, their tools, their tags."""

import ast
import inspect
import re
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import pytest

from meshwright import Agent, Task
from meshwright.agents.loader import BoundAgent, bind_agents, load_agents
from meshwright.agents.prompts import Prompts
from meshwright.agents.toolsets import Toolsets
from meshwright.testing import ScriptedModel, mesh_for, tool_call
from meshwright.tools import ToolSettings

ROOT = Path(__file__).parents[3]
SHIPPED = (
    *("simple-agent", "researcher-agent", "architect-agent", "api-coder", "qa-tester", "ui-agent"),
    "project-manager",
)
READING = {"list_files", "read_file", "search_files", "git_log", "git_diff"}
OF_TREE = {"view", "search", "list", "diff", "run_tests"}
MEMORY = {"remember", "recall"}
LOOKING = {"audit", "screenshot", "components"}
CHANGING = OF_TREE | {"edit", "write", "run", "revert", "propose"} | MEMORY
NEEDED: dict[str, set[str]] = {
    **{key: {"view", "edit", "write", "run", "run_tests"} for key in ("bug-fix", "backend-coding")},
    **{key: {"view", "components", "write"} for key in ("component-generation", "screen-generation")},
    **{key: {"diff", "view", "search", "run_tests"} for key in ("code-review", "ui-review", "qa-review")},
    **{key: {"view", "search", "write"} for key in ("test-generation", "test-planning", "ui-design")},
    "architecture-review": {"read_file", "git_log", "delegate"},
    "tech-consultation": {"remember", "recall"},
    "api-design": {"openapi"},
    "test-analysis": {"run_tests", "analyse_output"},
    "project-management": {"run_tests", "propose", "delegate"},
    "task-orchestration": {"run_tests", "propose", "delegate"},
}
"""The tools without which an agent could not do what it is chosen for."""
NAMED = re.compile(r"`([a-z][a-z_]*)`")
PARAMETERS = {"in_tree"}
"""Parameters of tools that prompts name, which are no tools."""
RESEARCHING = {"web_search", "fetch_page", "docs_search", "repo_overview", "compare"}


@pytest.fixture(scope="module")
def classes() -> dict[str, type[Agent]]:
    loaded = {each.agent_id: each for each in load_agents(ROOT / "actors")}
    return {agent_id: loaded[agent_id] for agent_id in SHIPPED}  # there may be others beside them


@pytest.fixture(scope="module")
def agents(classes: Mapping[str, type[Agent]]) -> dict[str, BoundAgent]:
    browser = {"design": {"program": sys.executable}}  # which is a program, and is not started
    return bind_agents(list(classes.values()), Toolsets(ToolSettings(workspace=ROOT, tables=browser)))


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
        ("researcher-agent", {"deep-research", "market-analysis", "technical-research", "tech-consultation"}),
        ("architect-agent", {"tech-consultation", "architecture-review", "code-review"}),
        ("qa-tester", {"qa-review", "test-planning", "test-generation", "test-analysis", "code-review"}),
        ("ui-agent", {"ui-design", "component-generation", "screen-generation", "ui-review", "bug-fix"}),
        ("project-manager", {"project-management", "task-orchestration"}),
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
        ("researcher-agent", RESEARCHING | MEMORY),
        ("architect-agent", READING | OF_TREE | MEMORY | {"delegate", "openapi"}),
        ("api-coder", CHANGING | {"openapi"}),
        ("ui-agent", CHANGING | LOOKING),
        ("qa-tester", OF_TREE | MEMORY | {"edit", "write", "flaky", "coverage", "analyse_output"}),
        ("project-manager", OF_TREE | MEMORY | {"propose", "delegate"}),
    ],
)
def test_each_agent_has_its_tools(agents: Mapping[str, BoundAgent], agent_id: str, tools: set[str]) -> None:
    assert set(agents[agent_id].tools) == tools


def test_each_capability_has_the_tools_for_it(agents: Mapping[str, BoundAgent]) -> None:
    for agent_id, bound in agents.items():
        for capability in bound.agent.capabilities:
            missing = NEEDED.get(capability.name, set()) - {*bound.tools}
            assert not missing, f"{agent_id} cannot do {capability.name} without {missing}"


@pytest.mark.parametrize("agent_id", SHIPPED)
def test_each_tool_that_a_prompt_names_exists(agents: Mapping[str, BoundAgent], agent_id: str) -> None:
    text = (ROOT / "prompts" / f"{agents[agent_id].agent.prompt}.prompt").read_text()
    assert {*NAMED.findall(text)} <= {*agents[agent_id].tools} | PARAMETERS


@pytest.mark.parametrize("agent_id", ["api-coder", "qa-tester", "architect-agent", "ui-agent"])
def test_a_prompt_names_each_tool_of_its_agent(agents: Mapping[str, BoundAgent], agent_id: str) -> None:
    text = (ROOT / "prompts" / f"{agent_id}.prompt").read_text()
    assert {*agents[agent_id].tools} <= {*NAMED.findall(text)}


def test_several_agents_compete_for_what_both_can_do(classes: Mapping[str, type[Agent]]) -> None:
    offered = [capability.name for agent in classes.values() for capability in agent.capabilities]
    assert {name for name in offered if offered.count(name) > 1} == {
        *("bug-fix", "code-review", "tech-consultation")
    }


def test_the_architect_may_ask_the_researcher_and_nobody_else(agents: Mapping[str, BoundAgent]) -> None:
    delegate = agents["architect-agent"].tools["delegate"]
    assert delegate.parameters["properties"]["agent_id"]["enum"] == ["researcher-agent"]


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
    foreign = {module for module in imported if module.partition(".")[0] not in sys.stdlib_module_names}
    toolsets = {module for module in foreign if module.startswith("meshwright.toolsets.")}
    assert foreign - toolsets <= {"meshwright", "meshwright.tools", "pydantic", "_reviews"}


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
    assert {agent.tags(task("Compare them")) for agent in others} == {None}


async def test_the_researcher_compares_by_sources_and_takes_a_strong_model_for_it() -> None:
    model = ScriptedModel()
    finding = {"item": "MIT", "criterion": "patents", "value": "silent", "source": "https://spdx.org/MIT"}
    model.replies(
        tool_call("compare", items=["MIT"], criteria=["patents"], findings=[finding | {"source": "hearsay"}]),
        tool_call("compare", items=["MIT"], criteria=["patents"], findings=[finding]),
        "MIT says nothing of patents.",
    )
    async with mesh_for(model=model, project=ROOT) as mesh:
        outcome = await mesh.ask("researcher-agent", "Compare the license with MIT")
        assert [event.payload["ok"] for event in mesh.events("tool.called")] == [False, True]
    assert outcome.text == "MIT says nothing of patents."
    assert "'hearsay' is no source" in model.requests[1].messages[-1].content
    assert "| MIT | silent [1] |" in model.requests[2].messages[-1].content
    assert {(request.user, request.tags) for request in model.requests} == {
        ("researcher-agent", ("research", "expensive"))
    }


async def test_a_refused_argument_goes_back_to_the_model_and_the_run_goes_on() -> None:
    model = ScriptedModel()
    model.replies(tool_call("read_file", path="/etc/hostname"), tool_call("read_file", file="x"), "I cannot.")
    async with mesh_for(model=model, project=ROOT) as mesh:
        outcome = await mesh.ask("architect-agent", "Read my host's name")
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
