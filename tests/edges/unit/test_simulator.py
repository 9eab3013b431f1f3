"""The simulator of model providers: its wires, its weather, its window and its bill."""

import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.support.simulator.play import Wire, play
from tests.support.simulator.scenario import Kind, Scenario, Weather, load_scenarios
from tests.support.simulator.server import Simulator

SCENARIOS = load_scenarios()
RESEARCH = replace(SCENARIOS["research"], tasks=2)
PATHS = {"openai": "/v1/chat/completions", "anthropic": "/v1/messages"}


@asynccontextmanager
async def simulated(scenario: Scenario = RESEARCH, **options: Any) -> AsyncIterator["Caller"]:
    async with Simulator(scenario, **options) as simulator, aiohttp.ClientSession(simulator.url) as session:
        yield Caller(simulator, session)


class Caller:
    """A client of the simulator that speaks both APIs."""

    def __init__(self, simulator: Simulator, session: aiohttp.ClientSession) -> None:
        self.simulator = simulator
        self.session = session

    async def ask(self, text: str, wire: str = "openai", **fields: Any) -> tuple[int, dict[str, Any], Any]:
        """The status, the document and the headers of an answer."""
        message = {"role": "user", "content": text}
        names = ("search", "check_health", "run_tests", "edit_file")
        functions = [{"name": name, "parameters": {"type": "object"}} for name in names]
        tools = [{"type": "function", "function": function} for function in functions]
        given = tools if wire == "openai" else functions
        body = {"model": "m", "messages": [message], "max_tokens": 100, "tools": given, **fields}
        async with self.session.post(PATHS[wire], json=body) as response:
            return response.status, json.loads(await response.text()), response.headers


def hit_by(kind: Kind, **fields: Any) -> Scenario:
    return replace(RESEARCH, weather=(Weather(kind, **fields),))


@pytest.mark.parametrize("wire", ["openai", "anthropic"])
@pytest.mark.parametrize("name", ["research", "thinking"])
async def test_a_mesh_gets_the_work_done(name: str, wire: Wire, tmp_path: Path) -> None:
    scenario = replace(SCENARIOS[name], tasks=2)
    score = await play(scenario, tmp_path, wire=wire, store="memory")
    assert (score.done, score.wrong, score.failed, score.repeated) == (2, 0, 0, 0), score.reasons
    assert score.booked == score.billed > 0


async def test_a_request_that_lost_its_text_gets_the_wrong_answer() -> None:
    async with simulated(replace(SCENARIOS["poll"], persona="reader")) as caller:
        _, whole, _ = await caller.ask("Do work item item-1. secret-word-a secret-word-b")
        _, lost, _ = await caller.ask("Do it.")
    texts = [document["choices"][0]["message"]["content"] for document in (whole, lost)]
    assert texts == ["Done: item-1 says secret-word-a secret-word-b.", "Done: nothing says ."]


@pytest.mark.parametrize(
    ("kind", "fields", "status", "retry_after"),
    [
        ("outage", {}, 503, None),
        ("rate-limit", {"status": 429, "retry_after": 2}, 429, "2"),
        ("rate-limit", {"status": 429}, 429, None),
        ("overload", {"status": 529}, 529, None),
    ],
)
async def test_a_provider_in_trouble_refuses(
    kind: Kind, fields: dict[str, Any], status: int, retry_after: str | None
) -> None:
    async with simulated(hit_by(kind, **fields)) as caller:
        found, _, headers = await caller.ask("Do work item item-1.")
        assert (found, headers.get("retry-after")) == (status, retry_after)
        assert caller.simulator.ledger.dollars == 0


async def test_an_outage_of_ten_minutes_ends_by_the_clock_it_is_given() -> None:
    times = iter([0.0, 599.0, 600.0])
    async with simulated(hit_by("outage", end=600), clock=lambda: next(times)) as caller:
        statuses = [(await caller.ask("Do work item item-1."))[0] for _ in range(3)]
    assert statuses == [503, 503, 200]


async def test_a_retry_after_is_as_fast_as_the_scenario() -> None:
    weather = {"status": 429, "retry_after": 60}
    async with simulated(hit_by("rate-limit", **weather), speed=30.0) as caller:
        _, problem, headers = await caller.ask("Do work item item-1.")
    assert headers["retry-after"] == "2"
    assert "try again in 2s" in problem["error"]["message"]


async def test_one_request_is_hit_only_as_often_as_the_scenario_says() -> None:
    async with simulated(hit_by("outage", tries=2)) as caller:
        statuses = [(await caller.ask("Do work item item-1."))[0] for _ in range(3)]
    assert statuses == [503, 503, 200]


async def test_an_answer_that_was_cut_off_is_continued_where_it_ended() -> None:
    scenario = replace(hit_by("cut-off"), persona="reader")
    messages = [{"role": "user", "content": "Do work item item-1. secret-word-a"}]
    said = ""
    async with simulated(scenario) as caller:
        while not said.endswith("."):
            _, answer, _ = await caller.ask("", messages=messages)
            [choice] = answer["choices"]
            assert choice["finish_reason"] == "length"
            said += choice["message"]["content"]
            messages += [choice["message"], {"role": "user", "content": "Go on."}]
    assert said == "Done: item-1 says secret-word-a."


async def test_a_stream_that_dies_is_billed() -> None:
    async with simulated(hit_by("dying-streams")) as caller:
        with pytest.raises(aiohttp.ClientPayloadError):
            await caller.ask("Do work item item-1.", stream=True)
        assert caller.simulator.ledger.dollars > caller.simulator.ledger.delivered == 0


@pytest.mark.parametrize(
    ("wire", "max_tokens", "words"),
    [
        ("openai", 1, r"maximum context length is 500 tokens\. However, your messages resulted in \d+"),
        ("openai", 400, r"However, you requested \d+ tokens \(\d+ in the messages, 400 in the completion\)"),
        ("anthropic", 1, r"prompt is too long: \d+ tokens > 500 maximum"),
        ("anthropic", 400, r"`max_tokens` exceed context limit: \d+ \+ 400 > 500"),
    ],
)
async def test_the_window_is_enforced_in_the_words_of_the_provider(
    wire: str, max_tokens: int, words: str
) -> None:
    async with simulated(replace(RESEARCH, window=500)) as caller:
        text = "word " * (100 if max_tokens > 1 else 500)
        status, problem, _ = await caller.ask(text, wire, max_tokens=max_tokens)
    assert status == 400
    assert re.search(words, problem["error"]["message"])


async def test_a_prefix_that_was_read_before_is_cheaper() -> None:
    text = "Do work item item-1. " + "word " * 2000
    async with simulated() as caller:
        first, second = [(await caller.ask(text))[1]["usage"] for _ in range(2)]
        marked = [{"role": "user", "content": [{"type": "text", "text": text, "cache_control": {}}]}]
        tokens = [(await caller.ask("", "anthropic", messages=marked))[1]["usage"] for _ in range(2)]
        unmarked = (await caller.ask(text + "!", "anthropic"))[1]["usage"]
    assert first["prompt_tokens_details"]["cached_tokens"] == 0
    assert second["prompt_tokens_details"]["cached_tokens"] > 2000
    assert [usage["cache_read_input_tokens"] > 2000 for usage in tokens] == [False, True]
    assert unmarked["cache_read_input_tokens"] == 0


async def test_a_call_without_its_result_is_refused() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "search", "arguments": "{}"}}
    messages = [
        {"role": "user", "content": "Do work item item-1."},
        {"role": "assistant", "content": None, "tool_calls": [call]},
    ]
    async with simulated() as caller:
        assert (await caller.ask("", messages=messages))[0] == 400


async def test_thinking_must_come_back_as_it_was_signed() -> None:
    forged = {"type": "thinking", "thinking": "I think about nothing.", "signature": "forged"}
    async with simulated(replace(RESEARCH, thinking=True)) as caller:
        question = {"role": "user", "content": "Do work item item-1."}
        _, first, _ = await caller.ask("", "anthropic", messages=[question])
        uses = [block for block in first["content"] if block["type"] == "tool_use"]
        results = [{"type": "tool_result", "tool_use_id": use["id"], "content": "fact abc"} for use in uses]
        answered = {"role": "user", "content": results}
        for blocks, status in ((first["content"], 200), (uses, 400), ([forged, *uses], 400)):
            messages = [question, {"role": "assistant", "content": blocks}, answered]
            assert (await caller.ask("", "anthropic", messages=messages))[0] == status


async def test_what_is_written_to_a_cache_has_its_price() -> None:
    text = [{"type": "text", "text": "word " * 2000, "cache_control": {"type": "ephemeral"}}]
    async with simulated() as caller:
        messages = [{"role": "user", "content": text}]
        usage = (await caller.ask("", "anthropic", messages=messages))[1]["usage"]
        dollars = caller.simulator.ledger.dollars
    counts = [usage[f"{name}_tokens"] for name in ("input", "cache_creation_input", "output")]
    prices = RESEARCH.prices
    assert counts[1] > 2000
    billed = counts[0] * prices.input + counts[1] * prices.cache_write + counts[2] * prices.output
    assert dollars == billed / 1_000_000


async def test_an_answer_that_was_asked_for_again_was_wasted() -> None:
    async with simulated() as caller:
        for _ in range(3):
            await caller.ask("Do work item item-1.")
        ledger = caller.simulator.ledger
    assert ledger.wasted({"item-1"}) == ledger.dollars * 2 / 3
    assert ledger.wasted(set()) == ledger.dollars


async def test_the_bill_is_the_tokens_times_the_prices() -> None:
    async with simulated() as caller:
        _, answer, _ = await caller.ask("Do work item item-1.", user="simulated")
        report = await (await caller.session.get("/report")).json()
    usage, prices = answer["usage"], RESEARCH.prices
    dollars = usage["prompt_tokens"] * prices.input + usage["completion_tokens"] * prices.output
    assert report["calls"] == report["answered"] == 1
    assert Decimal(report["dollars_of"]["simulated"]) == dollars / 1_000_000
