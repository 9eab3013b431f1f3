"""The payload of a task: all of it reaches the model, by name, within limits."""

from __future__ import annotations

from typing import Any

import pytest

from meshwright import Agent, Capability
from meshwright.engine.work.protocol import hash_request
from meshwright.models.port import ChatMessage, ModelRequest, ToolSpec
from meshwright.testing import ScriptedModel, mesh_for


class Reviewer(Agent):
    """Reviews."""

    agent_id = "reviewer"
    capabilities = (Capability("reviewing"),)


async def question(payload: dict[str, Any], agent: type[Agent] = Reviewer) -> str:
    model = ScriptedModel("Reviewed.")
    async with mesh_for(agent, model=model) as mesh:
        receipt = await mesh.submit(agent_id=agent.agent_id, payload=payload)
        assert (await mesh.outcome(receipt.task_id)).success
    [request] = model.requests
    assert request.messages[-1].role == "user"
    words = payload.get("text", "").strip()
    beside = [str(value) for name, value in payload.items() if name != "text" and words]
    assert not [value for value in beside if value in request.messages[0].content]
    return request.messages[-1].content


async def test_what_stands_beside_the_words_reaches_the_model() -> None:
    diff = "--- a.py\n+++ b.py\n-x = 1\n+x = 2"
    asked = await question({"text": "Review this.", "diff": diff, "limits": {"lines": 80}, "strict": True})
    assert asked == f'Review this.\n\ndiff:\n{diff}\n\nlimits:\n{{"lines": 80}}\n\nstrict:\ntrue'


@pytest.mark.parametrize("words", [{}, {"text": "  "}])
async def test_a_payload_without_words_reaches_the_model_by_field(words: dict[str, str]) -> None:
    asked = await question({**words, "title": "Größe"})
    assert asked == "title:\nGröße"


async def test_words_alone_are_told_as_they_are() -> None:
    assert await question({"text": "Review this."}) == "Review this."


async def test_long_fields_are_cut_and_say_so() -> None:
    asked = await question({"text": "Review.", **{f"part{n}": "x" * 40_000 for n in range(4)}})
    assert asked.count("[cut: the first 32,000 of 40,000 characters]") == 2
    assert "part3:\n[left out: the payload is too long]" in asked
    assert len(asked) < 101_000


async def test_tags_that_choose_the_model_are_not_told_to_it() -> None:
    class Tagged(Reviewer):
        agent_id = "tagged"
        task_tags = frozenset({"cheap"})

    assert await question({"text": "Review.", "tags": ["cheap"]}, Tagged) == "Review."
    assert await question({"text": "Review.", "tags": ["red"]}) == 'Review.\n\ntags:\n["red"]'


PICTURE = {"url": "data:image/png;base64,iVBO"}


async def test_files_reach_the_model_as_parts_and_not_as_words() -> None:
    text = {"url": "data:text/csv;base64,YSxi", "name": "a.csv"}
    page = {"url": "https://example.org/a.pdf"}
    document = {"url": "data:application/pdf;base64,JVBE", "name": "b.pdf"}
    part = {"type": "input_audio", "input_audio": {"data": "UklG", "format": "wav"}}
    files = [PICTURE, text, page, document, part]
    [request] = await requests({"text": "Look.", "files": files})
    assert request.messages[-1].content == "Look."
    assert request.messages[-1].parts == (
        {"type": "image_url", "image_url": PICTURE},
        {"type": "text", "text": "a.csv:\na,b"},
        {"type": "file", "file": {"file_id": "https://example.org/a.pdf", "filename": "a.pdf"}},
        {"type": "file", "file": {"file_data": document["url"], "filename": "b.pdf"}},
        part,
    )
    assert not any("base64" in message.text for message in request.messages)


async def test_a_picture_without_words_is_a_task() -> None:
    [request] = await requests({"files": [PICTURE]})
    assert len(request.messages[-1].parts) == 1
    assert not any("base64" in message.text for message in request.messages)


async def test_a_field_of_that_name_with_other_things_is_told_as_words() -> None:
    assert await question({"text": "Read.", "files": ["a.py", "b.py"]}) == 'Read.\n\nfiles:\n["a.py", "b.py"]'


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ([{"path": "a.png"}], "payload.files[0] has no url"),
        ([PICTURE, {"url": "file:///etc/passwd"}], "payload.files[1] has no url"),
        ([{"url": "data:text/plain;base64,!"}], "payload.files[0] is no base64"),
        ([{"url": "data:text/plain,Hi"}], "payload.files[0] is no base64"),
        ([PICTURE] * 17, "payload.files has 17 files, and 16 are allowed"),
    ],
)
async def test_what_is_no_file_is_refused_by_name(files: list[Any], said: str) -> None:
    model = ScriptedModel()
    async with mesh_for(Reviewer, model=model) as mesh:
        receipt = await mesh.submit(agent_id="reviewer", payload={"text": "Look.", "files": files})
        outcome = await mesh.outcome(receipt.task_id)
    assert outcome.error is not None
    assert said in outcome.error.message
    assert not model.requests


class Careful(Reviewer):
    """Reviews with care."""

    agent_id = "careful"
    params = {"reasoning_effort": "high", "seed": 7}  # noqa: RUF012 - as authors write it
    prompt_text = "---\ntags: [default]\nparams: {reasoning_effort: low, top_p: 0.9}\n---\nReview."


async def test_params_of_prompt_and_agent_reach_the_model() -> None:
    [request] = await requests({"text": "Look."}, Careful)
    assert request.params == {"reasoning_effort": "high", "seed": 7, "top_p": 0.9}


async def requests(payload: dict[str, Any], agent: type[Agent] = Reviewer) -> list[ModelRequest]:
    model = ScriptedModel("Reviewed.")
    async with mesh_for(agent, model=model) as mesh:
        receipt = await mesh.submit(agent_id=agent.agent_id, payload=payload)
        assert (await mesh.outcome(receipt.task_id)).success
    return model.requests


def test_what_is_not_said_leaves_the_hash_of_a_request_as_it_was() -> None:
    tool = ToolSpec(name="look", description="Look.", parameters={})
    request = ModelRequest(messages=(ChatMessage(role="user", content="Hi"),), user="reviewer", tools=(tool,))
    before = {
        "model": "default",
        "messages": [{"role": "user", "content": "Hi", "tool_calls": [], "tool_call_id": None}],
        "tags": [],
        "user": "reviewer",
        "metadata": {"tenant_id": "default"},
        "tools": [{"name": "look", "description": "Look.", "parameters": {}}],
        "tool_choice": "auto",
        "response_schema": None,
        "temperature": 0.0,
        "max_tokens": 1024,
        "timeout_seconds": 120.0,
        "cache": True,
    }
    assert hash_request(request.asked()) == hash_request(before)
    assert hash_request(request.model_copy(update={"params": {"seed": 7}}).asked()) != hash_request(before)
