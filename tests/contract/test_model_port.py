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
    ContentRefused,
    ContextTooLong,
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
from tests.providers.fake import FakeProvider, Fault, tool_call, tool_calls

# LiteLLM reads its streams by an attribute that pydantic deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:Accessing the 'model_:DeprecationWarning")
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


def anthropic(fake: FakeProvider, folder: Path) -> Model:
    """The Router again, with a provider that speaks Anthropic's API."""
    path = folder / "litellm_config.yaml"
    text = CONFIG.format(url=fake.url).replace("/v1", "")
    path.write_text(text.replace("openai/gpt-5.4-mini", "anthropic/claude-haiku-4-5"))
    return RouterModel(path, environment={"FAKE_KEY": KEY})


CALLING: dict[str, Callable[[FakeProvider, Path], Model]] = {"http": http, "router": router}
ADAPTERS = {"offline": offline, **CALLING}
EVERY_API = {**CALLING, "anthropic": anthropic}


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


@pytest.fixture(params=list(EVERY_API))
async def any_api(
    request: pytest.FixtureRequest, fake: FakeProvider, tmp_path: Path
) -> AsyncIterator[Adapter]:
    """An adapter that calls somebody, in any API."""
    model = EVERY_API[request.param](fake, tmp_path)
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


FAULTS: list[tuple[Fault, type[ModelError]]] = [
    (Fault(status=400), ModelRefused),
    (Fault(status=401), Unauthorized),
    (Fault(status=403), Unauthorized),
    (Fault(status=404), ModelRefused),
    (Fault(status=408), ModelTimeout),
    (Fault(status=422), ModelRefused),
    (Fault(status=429), RateLimited),
    (Fault(status=500), ModelUnavailable),
    (Fault(status=503), ModelUnavailable),
    (Fault(status=529), ModelUnavailable),
    (Fault(kind="drop"), ModelUnavailable),
    (Fault(kind="garbage"), ModelUnavailable),
    (Fault(kind="wrong-type"), ModelUnavailable),
]


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize(("fault", "kind"), FAULTS, ids=str)
async def test_a_fault_is_met_once_has_its_kind_and_quotes_neither_key_nor_prompt(
    any_api: Adapter, fault: Fault, kind: type[ModelError], streamed: bool
) -> None:
    any_api.fake.faults.append(fault)
    with pytest.raises(ModelError) as failed:
        await any_api.model.complete(request(), [].append if streamed else None)
    assert (type(failed.value), failed.value.retryable) == (kind, kind.retryable)
    assert len(any_api.fake.calls) == 1
    assert KEY not in str(failed.value) and PROMPT not in str(failed.value)
    assert "internal server error" not in str(failed.value).lower()
    assert failed.value.__suppress_context__ or failed.value.__context__ is None


CONTEXT = {"message": "This model's maximum context length is 3", "code": "context_length_exceeded"}
POLICY = {"message": "Rejected as a result of our safety system", "code": "content_policy_violation"}
QUOTA = {"message": "You exceeded your current quota", "code": "insufficient_quota"}


@pytest.mark.parametrize(
    ("status", "error", "kind"),
    [
        (400, CONTEXT, ContextTooLong),
        (400, POLICY, ContentRefused),
        (400, {**POLICY, "code": "content_filter"}, ContentRefused),
        (429, QUOTA, ModelRefused),
        (400, {"message": "No connected db.", "type": "no_db_connection"}, Unauthorized),
    ],
    ids=["context", "policy", "filter", "quota", "no-db"],
)
async def test_refusals_are_told_from_one_another(
    calling: Adapter, status: int, error: dict[str, str], kind: type[ModelError]
) -> None:
    calling.fake.faults.append(Fault(status=status, body={"error": error}))
    with pytest.raises(ModelError) as failed:
        await calling.model.complete(request())
    assert type(failed.value) is kind and not failed.value.retryable


async def test_an_answer_that_a_policy_held_back_is_a_refusal(any_api: Adapter) -> None:
    for on_delta in (None, [].append):
        any_api.fake.replies.append({"content": "", "finish_reason": "content_filter"})
        with pytest.raises(ContentRefused) as failed:
            await any_api.model.complete(request(), on_delta)
        assert not failed.value.retryable


@pytest.mark.parametrize("status", [429, 503, 529])
async def test_whoever_is_asked_to_wait_is_told_how_long(any_api: Adapter, status: int) -> None:
    any_api.fake.faults.append(Fault(status=status, headers={"retry-after": "7"}))
    with pytest.raises(ModelError) as failed:
        await any_api.model.complete(request())
    assert failed.value.retryable and failed.value.retry_after_seconds == 7.0


async def test_nobody_at_the_address_is_said_and_worth_another_try(any_api: Adapter) -> None:
    await any_api.fake.runner.cleanup()
    with pytest.raises(ModelUnavailable, match="connection refused"):
        await any_api.model.complete(request())


@pytest.mark.parametrize("adapter_of", EVERY_API.values(), ids=EVERY_API)
async def test_a_host_that_nobody_knows_is_said(adapter_of: Any, tmp_path: Path) -> None:
    model = adapter_of(FakeProvider(url="http://nowhere.invalid"), tmp_path)
    with pytest.raises(ModelUnavailable, match=r"(?i)name.*(not known|failure|resolution|no address)"):
        await model.complete(request())
    await model.close()


@pytest.mark.parametrize("kind", ["hang", "slow", "drip", "stall"])
async def test_the_deadline_bounds_a_call_and_closes_its_connection(any_api: Adapter, kind: Any) -> None:
    await any_api.model.complete(request())  # the first one imports what it needs
    any_api.fake.faults.append(Fault(kind=kind, seconds=0.15 if kind == "drip" else 60))
    with pytest.raises(ModelTimeout):
        await any_api.model.complete(request(timeout_seconds=0.4), [].append)
    await any_api.fake.abandoned.wait()


@pytest.mark.parametrize("kind", ["hang", "stall"])
async def test_cancelling_a_call_closes_its_connection(any_api: Adapter, kind: Any) -> None:
    any_api.fake.faults.append(Fault(kind=kind))
    begun = asyncio.Event()
    call = asyncio.create_task(any_api.model.complete(request(), lambda text: begun.set()))
    await (begun if kind == "stall" else any_api.fake.arrived).wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await any_api.fake.abandoned.wait()


async def test_it_answers_again_after_it_was_closed(adapter: Adapter) -> None:
    await adapter.model.complete(request())
    await adapter.model.close()
    assert (await adapter.model.complete(request())).content


async def test_a_stream_comes_in_pieces_and_ends_as_the_whole_answer(adapter: Adapter) -> None:
    whole = await adapter.model.complete(request())
    pieces: list[str] = []
    streamed = await adapter.model.complete(request(), pieces.append)
    assert len(pieces) > 3 and "".join(pieces) == streamed.content
    untimed = {"latency_ms": 0.0}
    assert streamed.model_copy(update=untimed) == whole.model_copy(update=untimed)


async def test_a_stream_is_told_while_it_is_still_written(any_api: Adapter) -> None:
    any_api.fake.faults.append(Fault(kind="stall"))
    first: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    call = asyncio.create_task(
        any_api.model.complete(request(), lambda text: first.done() or first.set_result(text))
    )
    assert await first
    call.cancel()
    await asyncio.wait([call])


async def test_parallel_tool_calls_of_a_stream_are_put_together(any_api: Adapter) -> None:
    calls = [(f"tool_{n}", json.dumps({"fridge": f"number {n}, Zürich"}), f"call_{n}") for n in range(3)]
    any_api.fake.replies.append({"content": "Looking.", **tool_calls(*calls)})
    pieces: list[str] = []
    reply = await any_api.model.complete(request(tools=(LOOK,)), pieces.append)
    made = [(call.name, json.loads(call.arguments), call.id) for call in reply.tool_calls]
    assert made == [(name, json.loads(arguments), call_id) for name, arguments, call_id in calls]
    assert "".join(pieces) == reply.content == "Looking."
    assert reply.finish_reason == "tool_calls"


@pytest.mark.parametrize("kind", ["drop", "error", "garbage"])
async def test_a_stream_that_dies_in_the_middle_is_worth_another_try(any_api: Adapter, kind: Any) -> None:
    any_api.fake.faults.append(Fault(kind=kind, status=529))
    pieces: list[str] = []
    with pytest.raises(ModelUnavailable) as failed:
        await any_api.model.complete(request(), pieces.append)
    assert pieces and failed.value.retryable
    assert len(any_api.fake.calls) == 1
    assert (await any_api.model.complete(request(), pieces.append)).content


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
async def test_tokens_of_each_kind_are_counted(any_api: Adapter, streamed: bool) -> None:
    any_api.fake.usage |= {
        "prompt_tokens": 20,
        "prompt_tokens_details": {"cached_tokens": 8},
        "completion_tokens_details": {"reasoning_tokens": 3},
    }
    usage = (await any_api.model.complete(request(), [].append if streamed else None)).usage
    assert (usage.prompt_tokens, usage.cached_tokens, usage.completion_tokens) == (20, 8, 7)
    if "messages" not in any_api.fake.calls[0].path:  # Anthropic counts no reasoning apart
        assert usage.reasoning_tokens == 3


async def test_a_call_is_told_how_long_it_took_and_how_often_it_was_tried(any_api: Adapter) -> None:
    any_api.fake.seconds = 0.05
    reply = await any_api.model.complete(request())
    assert reply.latency_ms >= 50 and reply.attempts == 1


async def test_a_tool_may_be_demanded(calling: Adapter) -> None:
    await calling.model.complete(request(tools=(LOOK,), tool_choice="required"))
    await calling.model.complete(request(tools=(LOOK,)))
    assert [call.body.get("tool_choice") for call in calling.fake.calls] == ["required", None]
