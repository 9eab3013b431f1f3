"""Tags end to end: of a prompt, of an agent, of a task where its agent allows it; and the researcher's."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshwright import Agent, Capability, Task, create_agent
from meshwright.agents.loader import load_agents, prompts_brought
from meshwright.agents.prompts import Prompts, PromptSources
from meshwright.agents.shipped import find_warnings
from meshwright.core.messages import Outcome
from meshwright.models.config import read_config
from meshwright.models.providers import LegacyModelName
from meshwright.models.routing import matching
from meshwright.models.select import adapter_for
from meshwright.testing import ScriptedModel, mesh_for
from tests.models.unit.test_models_routing import ROOT

PROMPT = """\
---
description: An agent of a test.
model: default
temperature: 0.0
max_tokens: 10
tags: [of, prompt]
variables: []
---
Be brief.
"""
RESEARCHER = next(each for each in load_agents(ROOT / "actors") if each.agent_id == "researcher-agent")


class Plain(Agent):
    """Leaves its tags to its prompt."""

    agent_id = "plain"
    prompt = "tagged"
    capabilities = (Capability("plainness"),)


class Chooser(Plain):
    """Chooses its tags by the task."""

    agent_id = "chooser"

    def tags(self, task: Task) -> list[str]:
        return ["long"] if len(task.text) > 10 else []


class Trusting(Chooser):
    """Lets whoever asks choose."""

    agent_id = "trusting"
    task_tags = frozenset({"cheap", "expensive"})


async def asked(folder: Path, agent: type[Agent], payload: dict[str, Any]) -> tuple[Outcome, ScriptedModel]:
    """Give an agent a task, and return its outcome with the model that it asked."""
    (folder / "prompts").mkdir()
    (folder / "prompts" / "tagged.prompt").write_text(PROMPT)
    model = ScriptedModel("Done.")
    async with mesh_for(agent, model=model, project=folder) as mesh:
        receipt = await mesh.submit(agent_id=agent.agent_id, payload=payload)
        return await mesh.outcome(receipt.task_id), model


@pytest.mark.parametrize(
    ("agent", "payload", "tags"),
    [
        (Plain, {"text": "Hi"}, ("of", "prompt")),
        (Plain, {"text": "Hi", "tags": ["expensive"]}, ("of", "prompt")),
        (Chooser, {"text": "Hi, how are you?"}, ("long",)),
        (Chooser, {"text": "Hi"}, ()),
        (Chooser, {"text": "Hi", "tags": ["expensive"]}, ()),
        (Trusting, {"text": "Hi", "tags": ["expensive"]}, ("expensive",)),
        (Trusting, {"text": "Hi, how are you?", "tags": []}, ("long",)),
        (Trusting, {"text": "Hi, how are you?"}, ("long",)),
    ],
)
async def test_a_call_has_the_tags_of_the_task_if_allowed_else_of_the_agent_else_of_the_prompt(
    tmp_path: Path, agent: type[Agent], payload: dict[str, Any], tags: tuple[str, ...]
) -> None:
    outcome, model = await asked(tmp_path, agent, payload)
    assert outcome.status == "succeeded"
    assert model.requests[0].tags == tags


@pytest.mark.parametrize("tags", [["expensive", "research"], "expensive", {"expensive": 1}, [["expensive"]]])
async def test_a_tag_that_the_agent_does_not_allow_fails_the_task_and_calls_nobody(
    tmp_path: Path, tags: Any
) -> None:
    outcome, model = await asked(tmp_path, Trusting, {"text": "Hi", "tags": tags})
    assert outcome.status == "failed" and outcome.error is not None
    assert outcome.error.type == "InvalidInput"
    assert "trusting allows" in outcome.error.message and "cheap, expensive" in outcome.error.message
    assert model.requests == []


class Slipping(Plain):
    """Means research, and says it wrong for a question."""

    agent_id = "slipping"
    task_tags = frozenset({"expensiv"})

    def tags(self, task: Task) -> list[str]:
        return ["reserch"] if "?" in task.text else []


class Picky(Plain):
    """Works on tasks of one kind alone."""

    agent_id = "picky"

    def tags(self, task: Task) -> list[str]:
        return [task.payload["kind"]]


def test_a_fleets_tags_that_nobody_has_are_told_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "tagged.prompt").write_text(PROMPT.replace("of, prompt", "medium, monitoring"))
    config = read_config(ROOT / "litellm_config.yaml")
    agents = (Plain, Slipping, Picky, RESEARCHER)
    assert [str(each) for each in find_warnings(config, Prompts(tmp_path), agents)] == [
        "prompt tagged: no deployment of group 'default' is tagged medium and monitoring. "
        "One tagged default answers; tag one with these, or take one away",
        "agent slipping [reserch]: no deployment of litellm_config.yaml is tagged 'reserch'. "
        "Did you mean 'research'?",
        "agent slipping [expensiv]: no deployment of litellm_config.yaml is tagged 'expensiv'. "
        "Did you mean 'expensive'?",
    ]


def test_the_fleet_that_comes_with_the_mesh_has_a_deployment_for_all_its_tags() -> None:
    config = read_config(ROOT / "litellm_config.yaml")
    assert find_warnings(config, Prompts(ROOT / "prompts"), load_agents(ROOT / "actors")) == []


def test_only_the_router_has_a_file_to_be_warned_of(tmp_path: Path) -> None:
    assert find_warnings(adapter_for(ScriptedModel()).config, Prompts(tmp_path), (Slipping,)) == []


def chosen(text: str, sample: Task) -> list[str]:
    tags = RESEARCHER().tags(sample.model_copy(update={"payload": {"text": text}}))
    assert tags is not None
    return list(tags)


@pytest.fixture
def sample() -> Task:
    now = "2026-11-20T09:00:00Z"
    return Task.model_validate({"task_id": "t", "deadline_at": now, "thread_id": "t", "created_at": now})


@pytest.mark.parametrize(
    ("text", "price"),
    [
        ("", "cheap"),
        ("What is MQTT?", "cheap"),
        ("word " * 60, "cheap"),
        ("word " * 61, "expensive"),
        ("What is MQTT? Who made it?", "cheap"),
        ("One? " + "word " * 18 + "two?", "cheap"),
        ("One? " + "word " * 19 + "two?", "expensive"),
        ("What? Where? When?", "expensive"),
        ("Compare MQTT and AMQP", "expensive"),
        ("COMPARISON of brokers", "expensive"),
        ("Redis vs Valkey", "expensive"),
        ("Should we use Redis?", "expensive"),
        ("Why?", "expensive"),
        ("List the tradeoffs", "expensive"),
        ("List the files of this shop", "cheap"),
        ("Which alternator fits?", "cheap"),
        ("Is this the whys and wherefores", "cheap"),
    ],
)
def test_the_researcher_asks_a_strong_model_where_a_question_asks_for_weighing_or_for_much(
    text: str, price: str, sample: Task
) -> None:
    assert chosen(text, sample) == ["research", price]


def test_a_task_without_words_is_a_cheap_one(sample: Task) -> None:
    assert RESEARCHER().tags(sample) == ["research", "cheap"]
    no_text = sample.model_copy(update={"payload": {"text": 7}})
    assert RESEARCHER().tags(no_text) == ["research", "cheap"]


WORDS = st.sampled_from(["a", "word " * 15, "compare", "Why?", "Where is it?", "vs", "tradeoffs", "☃"])


@given(
    text=st.lists(WORDS | st.text(max_size=20), max_size=8).map(" ".join),
    more=st.sampled_from([" and more words", " Why?", " compare it", "??"]),
)
def test_no_sign_of_complexity_makes_another_weaker(text: str, more: str) -> None:
    now = "2026-11-20T09:00:00Z"
    task = Task.model_validate({"task_id": "t", "deadline_at": now, "thread_id": "t", "created_at": now})
    if chosen(text, task) == ["research", "expensive"]:
        assert chosen(text + " " + more, task) == ["research", "expensive"]


@pytest.mark.parametrize("text", ["What is MQTT?", "Compare MQTT and AMQP"])
def test_what_the_researcher_asks_for_the_projects_own_file_has(text: str, sample: Task) -> None:
    config = read_config(ROOT / "litellm_config.yaml")
    assert matching(config, config.deployments, chosen(text, sample))


def test_a_model_that_code_names_needs_no_group(tmp_path: Path) -> None:
    config = read_config(ROOT / "litellm_config.yaml")
    with pytest.warns(LegacyModelName):
        solo = create_agent("gpt-4", agent_id="solo")
    grouped = create_agent("fast", agent_id="grouped", tags=["nobody"])
    brought = prompts_brought([solo, grouped])
    [warning] = find_warnings(config, PromptSources([Prompts(tmp_path, in_code=brought)]), [solo, grouped])
    assert "prompt grouped: no deployment of litellm_config.yaml is tagged 'nobody'" in str(warning)
