"""Every adapter reports a fault of its provider in the same way."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from meshwright.core.errors import ModelError
from meshwright.models.errors import (
    ContentRefused,
    ContextTooLong,
    ModelRefused,
    ModelTimeout,
    ModelUnavailable,
    RateLimited,
    Unauthorized,
)
from tests.support.fake_provider import FakeProvider, Fault
from tests.support.model_adapters import EVERY_API, KEY, PROMPT, Adapter, request

# LiteLLM reads its streams by an attribute that pydantic deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:Accessing the 'model_:DeprecationWarning")


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
LLAMA_CPP = {  # the server of xllamacpp 2026.10.11549
    "code": 400,
    "message": "request (2724 tokens) exceeds the available context size (1024 tokens), try increasing it",
    "type": "exceed_context_size_error",
}
TAGS = {  # LiteLLM's proxy 1.108.7
    "message": "Not allowed to access model due to tags configuration",
    "type": "internal_server_error",
}
QUOTA = {"message": "You exceeded your current quota", "code": "insufficient_quota"}


@pytest.mark.parametrize(
    ("status", "error", "kind"),
    [
        (400, CONTEXT, ContextTooLong),
        (400, LLAMA_CPP, ContextTooLong),
        (401, TAGS, ModelRefused),
        (400, POLICY, ContentRefused),
        (400, {**POLICY, "code": "content_filter"}, ContentRefused),
        (429, QUOTA, ModelRefused),
        (400, {"message": "No connected db.", "type": "no_db_connection"}, Unauthorized),
    ],
    ids=["context", "llama.cpp", "tags", "policy", "filter", "quota", "no-db"],
)
async def test_refusals_are_told_from_one_another(
    calling: Adapter, status: int, error: dict[str, Any], kind: type[ModelError]
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
        [reply] = failed.value.lost
        assert (reply.usage.prompt_tokens, reply.usage.completion_tokens) == (11, 7)
        assert reply.cost_source != "estimated"


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
        await any_api.model.complete(request(timeout_seconds=1.0), [].append)
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


@pytest.mark.parametrize("kind", ["drop", "error", "garbage"])
async def test_a_stream_that_dies_in_the_middle_is_worth_another_try(any_api: Adapter, kind: Any) -> None:
    any_api.fake.faults.append(Fault(kind=kind, status=529))
    pieces: list[str] = []
    with pytest.raises(ModelUnavailable) as failed:
        await any_api.model.complete(request(), pieces.append)
    assert pieces and failed.value.retryable
    assert len(any_api.fake.calls) == 1
    assert (await any_api.model.complete(request(), pieces.append)).content
