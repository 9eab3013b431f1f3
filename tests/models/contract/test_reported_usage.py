"""The tokens and costs that a provider reports are taken as far as the request allows, whatever its API."""

import json
from itertools import product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshwright.core.messages import Usage
from meshwright.core.money import MAX_COST
from meshwright.models.anthropic import AnthropicMessages
from meshwright.models.http import Wire
from meshwright.models.openai import ChatCompletions, ProxyCompletions
from meshwright.models.port import ModelReply, ModelRequest
from tests.support.model_adapters import Adapter, request

# LiteLLM reads its streams by an attribute that pydantic deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:Accessing the 'model_:DeprecationWarning")
LARGEST = 40_000
"""More tokens than any part of these requests allows, and fewer than one absurd number would be."""
ABSURD: list[Any] = [
    *(-1, -90_000_000, 10**9, 10**30, 10**200, True, False, 1.5, 7.0, 1e30, -0.5),
    *(float("nan"), float("inf"), "7", "x" * 10_000, [], [7], {}, {"prompt_tokens": 7}),
]
ANY = st.one_of(
    st.sampled_from(ABSURD),
    st.integers(),
    st.integers(min_value=0, max_value=100),
    st.floats(),
    st.none(),
    st.recursive(st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=4),
)
OPENAI = st.one_of(
    ANY,
    st.fixed_dictionaries(
        {"prompt_tokens": ANY, "completion_tokens": ANY},
        optional={
            "prompt_tokens_details": ANY | st.fixed_dictionaries({"cached_tokens": ANY}),
            "completion_tokens_details": ANY | st.fixed_dictionaries({"reasoning_tokens": ANY}),
            "cost": ANY,
        },
    ),
)
ANTHROPIC = st.one_of(
    ANY,
    st.fixed_dictionaries(
        {"input_tokens": ANY, "output_tokens": ANY},
        optional={"cache_read_input_tokens": ANY, "cache_creation_input_tokens": ANY},
    ),
)


def openai_body(usage: Any) -> dict[str, Any]:
    return {"choices": [{"message": {"content": "Cheese."}, "finish_reason": "stop"}], "usage": usage}


def anthropic_body(usage: Any) -> dict[str, Any]:
    return {"stop_reason": "end_turn", "content": [{"type": "text", "text": "Cheese."}], "usage": usage}


def read(wire: Wire, body: dict[str, Any], asked: ModelRequest | None = None, **known: Any) -> ModelReply:
    return wire.read(body, asked or request(max_tokens=100), "a provider", known)


def assert_possible(reply: ModelReply) -> None:
    counts = reply.usage.model_dump()
    assert all(type(count) is int and 0 <= count <= LARGEST for count in counts.values()), counts
    assert reply.usage.cached_tokens + reply.usage.cache_write_tokens <= reply.usage.prompt_tokens
    assert reply.cost_usd is None or 0 <= reply.cost_usd <= MAX_COST
    if reply.usage_problem:
        assert reply.cost_source in ("estimated", "reported")


@given(OPENAI)
def test_no_usage_of_openais_api_is_believed_beyond_the_request(usage: Any) -> None:
    assert_possible(read(ChatCompletions(), openai_body(usage)))
    asked = request(messages=(), inputs=("cheese",))
    vectors = {"data": [{"index": 0, "embedding": [1.0]}], "usage": usage}
    assert_possible(read(ChatCompletions(), vectors, asked))


@given(ANTHROPIC)
def test_no_usage_of_anthropics_api_is_believed_beyond_the_request(usage: Any) -> None:
    assert_possible(read(AnthropicMessages(), anthropic_body(usage)))


@pytest.mark.parametrize(
    ("wire", "body", "fields"),
    [
        (ChatCompletions(), openai_body, ("prompt_tokens", "completion_tokens")),
        (AnthropicMessages(), anthropic_body, ("input_tokens", "output_tokens")),
    ],
    ids=["openai", "anthropic"],
)
def test_an_absurd_number_is_estimated_and_named(wire: Wire, body: Any, fields: tuple[str, str]) -> None:
    for field, value in product(fields, ABSURD):
        reply = read(wire, body(dict.fromkeys(fields, 5) | {field: value}))
        assert reply.cost_source == "estimated"
        assert f"{field} is " in reply.usage_problem and len(reply.usage_problem) < 200
        assert sum(reply.usage.model_dump().values()) == 5


def test_reasoning_and_cached_tokens_within_the_request_are_taken() -> None:
    usage = {
        "prompt_tokens": 4_000,
        "completion_tokens": 9_000,
        "prompt_tokens_details": {"cached_tokens": 3_900},
        "completion_tokens_details": {"reasoning_tokens": 8_990},
    }
    reply = read(ChatCompletions(), openai_body(usage))
    assert reply.usage == Usage(
        prompt_tokens=4_000, completion_tokens=9_000, cached_tokens=3_900, reasoning_tokens=8_990
    )
    assert (reply.usage_problem, reply.cost_source) == ("", "unknown")


def test_a_long_prompt_and_a_picture_may_have_many_tokens() -> None:
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}}
    asked = request()
    [message] = asked.messages
    asked = request(messages=(message.model_copy(update={"parts": (picture,)}),))
    usage = {"prompt_tokens": 48_000, "completion_tokens": 5}
    assert not read(ChatCompletions(), openai_body(usage), asked).usage_problem
    usage["prompt_tokens"] = 100_000
    long = request(messages=(message.model_copy(update={"content": "a b " * 50_000}),))
    assert not read(ChatCompletions(), openai_body(usage), long).usage_problem


@pytest.mark.parametrize("cost", ["-1", "NaN", "inf", "1e30", "1e-99", "", "free"])
def test_an_absurd_cost_of_a_proxy_is_named_and_not_taken(cost: str) -> None:
    wire = ProxyCompletions()
    known = wire.headers_say({"x-litellm-response-cost": cost}, streamed=False)
    usage = {"prompt_tokens": 5, "completion_tokens": 5}
    for reply in (read(wire, openai_body(usage), **known), read(wire, openai_body({**usage, "cost": cost}))):
        assert (reply.cost_usd, reply.cost_source) == (None, "estimated")
        assert "cost" in reply.usage_problem


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
async def test_every_adapter_answers_whatever_it_is_told_of_tokens(calling: Adapter, streamed: bool) -> None:
    calling.fake.usage = {"prompt_tokens": -90_000_000, "completion_tokens": 10**12, "total_tokens": 0}
    pieces: list[str] = []
    reply = await calling.model.complete(request(), pieces.append if streamed else None)
    assert reply.content
    assert (reply.cost_source, reply.cost_usd) == ("estimated", None)
    assert_possible(reply)  # LiteLLM counts a stream's prompt itself
    assert "completion_tokens is 1000000000000" in reply.usage_problem
    assert json.loads(reply.model_dump_json())["usage_problem"]
