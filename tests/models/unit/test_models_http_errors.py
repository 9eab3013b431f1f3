"""Faults that servers tell in words of their own: their kinds, without key and prompt.

The kinds of plain faults, on every adapter, are in `tests/models/contract/test_model_faults.py`.
"""

import json
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

import pytest

from meshwright.core.errors import ModelError
from meshwright.models.errors import (
    AllProvidersDown,
    ContentRefused,
    ContextTooLong,
    ModelRefused,
    ModelTimeout,
    ModelUnavailable,
    RateLimited,
    Unsupported,
)
from meshwright.models.port import ChatMessage
from meshwright.models.server import HttpModel
from tests.support.fake_provider import FakeProvider, Fault
from tests.support.model_requests import KEY, PROMPT, request


@pytest.fixture
async def model(fake: FakeProvider) -> AsyncIterator[HttpModel]:
    model = HttpModel(fake.url, KEY)
    yield model
    await model.close()


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (Fault(status=307, headers={"location": "http://elsewhere/"}), ModelRefused),
        (
            Fault(status=400, body={"error": {"message": "litellm.ContextWindowExceededError: no"}}),
            ContextTooLong,
        ),
        (
            Fault(
                status=400, body={"error": {"message": "prompt is too long: 210000 tokens > 200000 maximum"}}
            ),
            ContextTooLong,
        ),
        (
            Fault(
                status=400, body={"error": {"message": "input length and `max_tokens` exceed context limit"}}
            ),
            ContextTooLong,
        ),
        (Fault(status=400, body={"message": "Input is too long for requested model."}), ContextTooLong),
        (Fault(status=413), ContextTooLong),
        (
            Fault(
                status=429,
                body={
                    "error": {
                        "message": "Request too large for gpt-5.4 on tokens per min (TPM): Limit 30000",
                        "code": "rate_limit_exceeded",
                    }
                },
            ),
            ContextTooLong,
        ),
        (Fault(status=400, body=["not an error body"]), ModelRefused),
        (
            Fault(status=400, body={"error": {"message": "litellm.ContentPolicyViolationError: no"}}),
            ContentRefused,
        ),
        (
            Fault(status=429, body={"error": {"message": "No deployments available for selected model"}}),
            AllProvidersDown,
        ),
        (Fault(kind="body", body=[1]), ModelUnavailable),
        (Fault(kind="body", body={"choices": []}), ModelUnavailable),
        (Fault(kind="body", body={"error": {"message": PROMPT}}), ModelUnavailable),
        (Fault(kind="body", body={"choices": [{"message": {"content": 7}}]}), ModelUnavailable),
        (
            Fault(kind="body", body={"choices": [{"message": {"tool_calls": [{"id": "c"}]}}]}),
            ModelUnavailable,
        ),
    ],
)
async def test_every_fault_has_its_kind_and_its_text_quotes_neither_key_nor_prompt(
    fake: FakeProvider, model: HttpModel, fault: Fault, kind: type[ModelError]
) -> None:
    fake.faults.append(fault)
    with pytest.raises(ModelError) as failed:
        await model.complete(request())
    assert type(failed.value) is kind
    assert failed.value.retryable is kind.retryable
    assert len(fake.calls) == 1
    chain: BaseException | None = failed.value
    while chain is not None and not chain.__suppress_context__:
        chain = chain.__context__
        assert KEY not in str(chain) and PROMPT not in str(chain)
    assert KEY not in str(failed.value) and PROMPT not in str(failed.value)


async def test_an_account_without_credit_is_told_what_to_do(fake: FakeProvider, model: HttpModel) -> None:
    fake.faults.append(Fault(status=429, body={"error": {"code": "insufficient_quota"}}))
    with pytest.raises(ModelRefused, match="no credit or budget left") as failed:
        await model.complete(request())
    assert failed.value.remedy.startswith("Add credit there")


@pytest.mark.parametrize("status", [400, 401, 402, 404, 408, 413, 429, 500, 529])
async def test_each_fault_of_a_provider_says_what_to_do(
    status: int, fake: FakeProvider, model: HttpModel
) -> None:
    fake.faults.append(Fault(status=status, body={"error": {"message": "no"}}))
    with pytest.raises(ModelError, match=f"{fake.url} answered {status} to a call of model") as failed:
        await model.complete(request())
    assert failed.value.remedy
    assert ("no credit" in str(failed.value)) == (status == 402)


async def test_an_error_names_the_model_that_answers_every_call(fake: FakeProvider) -> None:
    model = HttpModel(fake.url, KEY, model_name="the-only-one")
    fake.faults.extend([Fault(status=400), Fault(kind="hang")])
    with pytest.raises(ModelRefused, match="a call of model 'the-only-one'"):
        await model.complete(request(model="default"))
    with pytest.raises(ModelTimeout, match="did not answer model 'the-only-one'"):
        await model.complete(request(model="default", timeout_seconds=0.05))
    await model.close()


async def test_a_prompt_that_an_error_quotes_does_not_decide_its_kind(
    fake: FakeProvider, model: HttpModel
) -> None:
    fake.faults.append(Fault(status=400))  # it quotes the request
    text = f"{'x' * 300} insufficient_quota, context length, no_db_connection"
    with pytest.raises(ModelRefused) as failed:
        await model.complete(request(messages=(ChatMessage(role="user", content=text),)))
    assert type(failed.value) is ModelRefused
    assert "rejected the request" in str(failed.value)


@pytest.mark.parametrize(
    ("status", "error", "what"),
    [
        (400, {"message": "registry.ollama.ai/library/gemma:2b does not support tools"}, "tools"),
        (404, {"message": "No endpoints found that support tool use. To learn more", "code": 404}, "tools"),
        (
            400,
            {"message": '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser'},
            "tools",
        ),
        (400, {"message": "Function calling is not enabled for this model"}, "tools"),
        (422, {"message": "Unsupported parameter", "param": "tools"}, "tools"),
        (
            400,
            {"message": "litellm.UnsupportedParamsError: p does not support parameters: ['tools'], for m"},
            "tools",
        ),
        (400, {"message": "This response_format type is unavailable now"}, "response_format"),
        (
            400,
            {"message": "'response_format.type' : value is not one of the allowed values ['text']"},
            "response_format",
        ),
        (422, {"message": "json_schema is not supported with this model"}, "response_format"),
        (400, {"message": "Function calling with a response mime type is unsupported"}, ""),
        (404, {"message": "No endpoints found that support the provided 'tool_choice' value"}, ""),
    ],
)
async def test_a_part_of_a_request_that_a_model_does_not_take_is_known_by_the_providers_words(
    fake: FakeProvider, model: HttpModel, status: int, error: dict[str, Any], what: str
) -> None:
    fake.faults.append(Fault(status=status, body={"error": error}))
    with pytest.raises(Unsupported) as failed:
        await model.complete(request())
    assert (failed.value.what, failed.value.answered, failed.value.retryable) == (what, status, False)
    assert error["message"] in str(failed.value)


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (404, {"message": "The model `gpt-5` does not exist"}),
        (400, {"message": "Invalid schema: 'default' is not permitted", "param": "tools[0].function"}),
        (400, {"message": "Invalid 'tools': array too long"}),
    ],
)
async def test_another_refusal_is_not_taken_for_a_part_that_a_model_does_not_take(
    fake: FakeProvider, model: HttpModel, status: int, error: dict[str, Any]
) -> None:
    fake.faults.append(Fault(status=status, body={"error": error}))
    with pytest.raises(ModelRefused) as failed:
        await model.complete(request())
    assert (type(failed.value), failed.value.answered) == (ModelRefused, status)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("2", 2.0),
        ("0.5", 0.5),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0),
        ("soon", None),
        ("-1", None),
        ("inf", None),
        ("nan", None),
        ("\u00b2", None),
        ("86400", 60.0),
        ("9" * 400, None),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 60.0),
        ("Fri, 31 Dec 9999 23:59:59 -1200", 60.0),
        ("Fri, 31 Dec 99999 23:59:59 +9999", None),
        ("Thu, 01 Jan 0001 00:00:00 +1400", 0.0),
    ],
)
async def test_a_rate_limit_says_how_long_to_wait(
    fake: FakeProvider, model: HttpModel, header: str, seconds: float | None
) -> None:
    fake.faults.append(Fault(status=429, headers={"retry-after": header}))
    with pytest.raises(RateLimited) as limited:
        await model.complete(request())
    assert limited.value.retry_after_seconds == seconds


@pytest.mark.parametrize(("seconds", "asked"), [(30, 30.0), (86_400, 60.0)])
async def test_a_proxy_whose_deployments_cool_down_says_for_how_long(
    fake: FakeProvider, model: HttpModel, seconds: int, asked: float
) -> None:
    said = (
        f"No deployments available for selected model, Try again in {seconds} seconds. Passed model=default"
    )
    fake.faults.append(Fault(status=429, body={"error": {"message": said}}))
    with pytest.raises(AllProvidersDown) as down:
        await model.complete(request())
    assert down.value.retry_after_seconds == asked


async def test_a_proxy_whose_fallbacks_failed_too_says_so_behind_what_it_quotes(
    fake: FakeProvider, model: HttpModel
) -> None:
    said = f"litellm.InternalServerError: {'x' * 900}. Error doing the fallback: {'y' * 900}"
    for status, kind in ((500, AllProvidersDown), (400, ModelRefused)):
        fake.faults.append(Fault(status=status, body={"error": {"message": said}}))
        with pytest.raises(ModelError) as failed:
            await model.complete(request())
        assert type(failed.value) is kind


async def test_a_provider_out_of_a_proxys_reach_is_not_called_a_servers_fault(
    fake: FakeProvider, model: HttpModel
) -> None:
    said = "litellm.InternalServerError: OpenAIException - Connection error."
    fake.faults.append(Fault(status=500, body={"error": {"message": said}}))
    with pytest.raises(ModelUnavailable, match="it cannot reach the model's provider"):
        await model.complete(request())


async def test_a_reply_over_the_limit_is_not_read_to_its_end(fake: FakeProvider) -> None:
    model = HttpModel(fake.url, KEY, max_reply_bytes=1_000)
    fake.faults.append(Fault(kind="oversized", size=1_000_000))
    with pytest.raises(ModelError, match="more than 1,000 bytes") as failed:
        await model.complete(request())
    assert not failed.value.retryable
    await model.close()


async def test_nobody_at_the_address_is_said_with_the_address_and_what_to_do(fake: FakeProvider) -> None:
    await fake.runner.cleanup()
    model = HttpModel(fake.url, KEY)
    with pytest.raises(
        ModelUnavailable, match=rf"Cannot connect to {fake.url}: connection refused.*LITELLM_BASE_URL"
    ):
        await model.complete(request())
    await model.close()


WORDS = "Cannot take messages[0]"
SAID = {
    "as it stands": (f"{WORDS}: {PROMPT}", f"{WORDS}: [...]"),
    "quoted as JSON": (json.dumps({"content": PROMPT}), '{"content": "[...]"}'),
    "in capitals": (f"{WORDS}: {PROMPT.upper()}!", f"{WORDS}: [...]!"),
    "a part of it": (f"{WORDS}: ...{PROMPT[4:-2]}", f"{WORDS}: ...[...]"),
    "in an address": (f"{WORDS} {quote(PROMPT)}", f"{WORDS} [...]"),
    "the key": (f"{WORDS} with {KEY}", f"{WORDS} with [redacted]"),
    "a part of the key": (f"{WORDS} with {KEY[:-2]}", f"{WORDS} with [redacted]"),
    "another key": (f"{WORDS} with Bearer abcdef0123456789abcd", f"{WORDS} with Bearer [redacted]"),
    "control characters": (f"{WORDS}\x1b[31m\r\n\tred", f"{WORDS} [31m red"),
    "other letters": (f"{WORDS}: Ungültig", f"{WORDS}: Ungültig"),
}


@pytest.mark.parametrize(("said", "shown"), SAID.values(), ids=SAID)
@pytest.mark.parametrize("streamed", [False, True], ids=["a reply", "within a stream"])
async def test_an_error_says_what_the_provider_said_without_key_and_prompt(
    fake: FakeProvider, model: HttpModel, said: str, shown: str, streamed: bool
) -> None:
    body = {"error": {"message": said, "type": "invalid_request_error", "code": "bad_value"}}
    fake.faults.append(Fault(kind="error" if streamed else "status", status=400, body=body))
    with pytest.raises(ModelRefused) as failed:
        await model.complete(request(), (lambda text: None) if streamed else None)
    assert f"it rejected the request; it said: invalid_request_error: bad_value: {shown}" in str(failed.value)


async def test_a_password_in_the_prompt_is_not_in_the_error(fake: FakeProvider, model: HttpModel) -> None:
    prompt = "Log in as ada@example.org1 with hunter22"
    fake.faults.append(Fault(status=400, body={"error": {"message": "Who is hunter22, ada@example.org1?"}}))
    with pytest.raises(ModelRefused, match=r"it said: Who is \[\.\.\.\], \[\.\.\.\]\? Change"):
        await model.complete(request(messages=(ChatMessage(role="user", content=prompt),)))


async def test_a_pause_in_milliseconds_is_kept_to(fake: FakeProvider, model: HttpModel) -> None:
    fake.faults.append(Fault(status=429, headers={"retry-after-ms": "1250", "retry-after": "2"}))
    with pytest.raises(RateLimited) as limited:
        await model.complete(request())
    assert limited.value.retry_after_seconds == 1.25


async def test_a_long_reason_is_cut(fake: FakeProvider, model: HttpModel) -> None:
    fake.faults.append(Fault(status=400, body={"error": {"message": "why? " * 10_000}}))
    with pytest.raises(ModelRefused) as failed:
        await model.complete(request())
    assert "why? why?" in str(failed.value) and len(str(failed.value)) < 500


@pytest.mark.parametrize("wrote", ["zebra market " * 60_000, "a" * 900_000], ids=["words", "one letter"])
async def test_a_long_prompt_is_hidden_in_little_time(
    fake: FakeProvider, model: HttpModel, wrote: str
) -> None:
    message = ChatMessage(role="user", content=wrote)
    fake.faults.append(Fault(status=400, body={"error": {"message": f"Too long: {wrote[:2000]}"}}))
    with pytest.raises(ModelRefused, match=r"it said: Too long: \[\.\.\.\]\. Change"):
        await model.complete(request(messages=(message,)))


async def test_a_page_instead_of_an_error_is_told_by_its_text(fake: FakeProvider, model: HttpModel) -> None:
    page = b"<html><style>p {color: red}</style><h1>502 Bad Gateway</h1>\n<p>nginx</p></html>"
    fake.faults.append(Fault(kind="wrong-type", status=502, pieces=[page]))
    with pytest.raises(ModelUnavailable, match="it said: 502 Bad Gateway nginx"):
        await model.complete(request())


def kinds_of(base: type[ModelError]) -> list[type[ModelError]]:
    return [base, *(each for kind in base.__subclasses__() for each in kinds_of(kind))]


@pytest.mark.parametrize("kind", kinds_of(ModelError))
def test_every_error_can_be_made_of_what_its_json_says(kind: type[ModelError]) -> None:
    error = kind("it failed", remedy="try another", field="model")
    assert (error.message, error.remedy, error.field) == ("it failed", "try another", "model")
