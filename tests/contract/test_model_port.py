"""What every model holds to, whichever adapter it is: one suite, run on each."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from meshwright.errors import ModelError
from meshwright.models.http import HttpModel
from meshwright.models.offline import OfflineModel
from meshwright.models.port import (
    ChatMessage,
    Model,
    ModelRefused,
    ModelRequest,
    ModelTimeout,
    ModelUnavailable,
    RateLimited,
    ToolSpec,
    Unauthorized,
)
from meshwright.models.router import RouterModel
from tests.providers.fake import FakeProvider, Fault, tool_call

KEY = "sk-a-secret-key"
PROMPT = "What is in the fridge? This prompt is nobody's business."
CONFIG = """\
model_list:
  - model_name: default
    litellm_params:
      {{model: openai/gpt-5.4-mini, api_base: "{url}/v1", api_key: os.environ/FAKE_KEY, tags: [default]}}
router_settings: {{enable_tag_filtering: true, disable_cooldowns: true}}
litellm_settings: {{drop_params: true}}
"""
LOOK = ToolSpec(
    name="fridge_content",
    description="Look what is in the fridge.",
    parameters={"type": "object", "properties": {"fridge": {"type": "string"}}, "required": ["fridge"]},
)
SCHEMA = {"type": "object", "properties": {"answer": {"type": "string"}}, "required": ["answer"]}


@dataclass
class Adapter:
    """A model under test and the provider that it calls."""

    model: Model
    fake: FakeProvider


def http(fake: FakeProvider, folder: Path) -> Model:
    return HttpModel(fake.url, KEY)


def router(fake: FakeProvider, folder: Path) -> Model:
    path = folder / "litellm_config.yaml"
    path.write_text(CONFIG.format(url=fake.url))
    return RouterModel(path, environment={"FAKE_KEY": KEY})


def offline(fake: FakeProvider, folder: Path) -> Model:
    return OfflineModel()


CALLING: dict[str, Callable[[FakeProvider, Path], Model]] = {"http": http, "router": router}
ADAPTERS = {"offline": offline, **CALLING}


@pytest.fixture
async def fake() -> AsyncIterator[FakeProvider]:
    async with FakeProvider() as fake:
        yield fake


@pytest.fixture(params=list(ADAPTERS))
async def adapter(
    request: pytest.FixtureRequest, fake: FakeProvider, tmp_path: Path
) -> AsyncIterator[Adapter]:
    model = ADAPTERS[request.param](fake, tmp_path)
    yield Adapter(model, fake)
    await model.close()


@pytest.fixture(params=list(CALLING))
async def calling(
    request: pytest.FixtureRequest, fake: FakeProvider, tmp_path: Path
) -> AsyncIterator[Adapter]:
    """An adapter that calls somebody, who may fail."""
    model = CALLING[request.param](fake, tmp_path)
    yield Adapter(model, fake)
    await model.close()


def request(**fields: Any) -> ModelRequest:
    messages = (ChatMessage(role="user", content=PROMPT),)
    return ModelRequest(
        **{"messages": messages, "user": "researcher-agent", "timeout_seconds": 10.0, **fields}
    )


async def test_a_reply_says_what_answered_and_what_it_took(adapter: Adapter) -> None:
    reply = await adapter.model.complete(request())
    assert reply.content and reply.model
    assert reply.finish_reason == "stop"
    assert reply.usage.prompt_tokens > 0 and reply.usage.completion_tokens > 0
    assert reply.cost_usd is None or reply.cost_usd >= 0


async def test_the_name_says_which_adapter_it_is_and_holds_no_key(adapter: Adapter) -> None:
    assert adapter.model.name.split()[0] in ADAPTERS
    assert KEY not in adapter.model.name


async def test_a_tool_that_is_offered_can_be_called(adapter: Adapter) -> None:
    adapter.fake.replies.append(tool_call("fridge_content", '{"fridge": "mine"}'))
    reply = await adapter.model.complete(request(tools=(LOOK,)))
    assert reply.finish_reason == "tool_calls"
    (call,) = reply.tool_calls
    assert call.name == "fridge_content" and call.id
    assert json.loads(call.arguments).keys() == {"fridge"}


async def test_the_result_of_a_tool_is_taken_up(adapter: Adapter) -> None:
    adapter.fake.replies.append(tool_call("fridge_content", '{"fridge": "mine"}'))
    first = await adapter.model.complete(request(tools=(LOOK,)))
    messages = (
        ChatMessage(role="user", content=PROMPT),
        ChatMessage(role="assistant", tool_calls=first.tool_calls),
        ChatMessage(
            role="tool", content="There is cheese in the fridge.", tool_call_id=first.tool_calls[0].id
        ),
    )
    reply = await adapter.model.complete(request(messages=messages, tools=(LOOK,)))
    assert "cheese in the fridge" in reply.content and not reply.tool_calls


async def test_a_schema_gets_json_that_fits_it(adapter: Adapter) -> None:
    reply = await adapter.model.complete(request(response_schema=SCHEMA))
    assert json.loads(reply.content).keys() == {"answer"}


async def test_what_was_asked_for_is_left_as_it_was(adapter: Adapter) -> None:
    metadata = {"task_id": "t1", "deep": {"list": [1]}}
    asked = request(tags=("default",), metadata=metadata, tools=(LOOK,))
    before = asked.model_dump_json()
    await adapter.model.complete(asked)
    assert asked.model_dump_json() == before
    assert metadata == {"task_id": "t1", "deep": {"list": [1]}}


async def test_calls_run_side_by_side_and_each_gets_its_own_answer(adapter: Adapter) -> None:
    def about(number: int) -> ModelRequest:
        text = (
            f"Which animal is number {number}? Say it.\n"
            + f"Animal number {number} is called Cat{number}. " * 8
        )
        return request(messages=(ChatMessage(role="user", content=text),))

    replies = await asyncio.gather(*(adapter.model.complete(about(number)) for number in range(8)))
    assert [f"Cat{number}" in reply.content for number, reply in enumerate(replies)] == [True] * 8


async def test_it_can_be_closed_twice_and_without_a_call(adapter: Adapter) -> None:
    await adapter.model.close()
    await adapter.model.close()


async def test_arguments_of_a_tool_call_are_passed_on_unchecked(calling: Adapter) -> None:
    calling.fake.replies.append(tool_call("fridge_content", '{"fridge": '))
    reply = await calling.model.complete(request(tools=(LOOK,)))
    assert reply.tool_calls[0].arguments == '{"fridge": '


async def test_the_user_of_a_call_arrives(calling: Adapter) -> None:
    await calling.model.complete(request())
    assert calling.fake.calls[0].body["user"] == "researcher-agent"


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (Fault(status=400), ModelRefused),
        (Fault(status=401), Unauthorized),
        (Fault(status=403), Unauthorized),
        (Fault(status=404), ModelRefused),
        (Fault(status=422), ModelRefused),
        (Fault(status=429), RateLimited),
        (Fault(status=500), ModelUnavailable),
        (Fault(status=503), ModelUnavailable),
        (Fault(kind="drop"), ModelUnavailable),
        (Fault(kind="garbage"), ModelUnavailable),
        (Fault(kind="wrong-type"), ModelUnavailable),
    ],
    ids=str,
)
async def test_a_fault_is_met_once_has_its_kind_and_quotes_neither_key_nor_prompt(
    calling: Adapter, fault: Fault, kind: type[ModelError]
) -> None:
    calling.fake.faults.append(fault)
    with pytest.raises(ModelError) as failed:
        await calling.model.complete(request())
    assert (type(failed.value), failed.value.retryable) == (kind, kind.retryable)
    assert len(calling.fake.calls) == 1
    assert KEY not in str(failed.value) and PROMPT not in str(failed.value)
    assert failed.value.__suppress_context__ or failed.value.__context__ is None


async def test_a_context_that_is_too_long_is_told_from_other_refusals(calling: Adapter) -> None:
    error = {"message": "This model's maximum context length is 3", "code": "context_length_exceeded"}
    calling.fake.faults.append(Fault(status=400, body={"error": error}))
    with pytest.raises(ModelError) as failed:
        await calling.model.complete(request())
    assert failed.value.code == "ContextTooLong"


async def test_a_rate_limit_tells_how_long_to_wait(calling: Adapter) -> None:
    calling.fake.faults.append(Fault(status=429, headers={"retry-after": "7"}))
    with pytest.raises(RateLimited) as limited:
        await calling.model.complete(request())
    assert limited.value.retry_after_seconds == 7.0


async def test_nobody_at_the_address_is_worth_another_try(calling: Adapter) -> None:
    await calling.fake.runner.cleanup()
    with pytest.raises(ModelUnavailable):
        await calling.model.complete(request())


async def test_the_deadline_bounds_a_call_and_closes_its_connection(calling: Adapter) -> None:
    await calling.model.complete(request())  # the first one imports what it needs
    calling.fake.faults.append(Fault(kind="hang"))
    with pytest.raises(ModelTimeout):
        await calling.model.complete(request(timeout_seconds=0.2))
    await calling.fake.abandoned.wait()


async def test_cancelling_a_call_closes_its_connection(calling: Adapter) -> None:
    calling.fake.faults.append(Fault(kind="hang"))
    call = asyncio.create_task(calling.model.complete(request()))
    await calling.fake.arrived.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await calling.fake.abandoned.wait()


async def test_it_answers_again_after_it_was_closed(adapter: Adapter) -> None:
    await adapter.model.complete(request())
    await adapter.model.close()
    assert (await adapter.model.complete(request())).content
