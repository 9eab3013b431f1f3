"""The probe of a model: the calls that it makes, and what it says of servers that differ."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from meshwright.core.money import Price
from meshwright.core.part import Caution
from meshwright.models.last_tests import describe_model, keep_results
from meshwright.models.overview import Deployments
from meshwright.models.server import HttpModel
from tests.support.fake_provider import FakeProvider, Fault, tool_call
from tests.support.model_requests import KEY

PRICE = Price(input="1", output="2")
BERN, OSLO = '{"city": "Bern"}', '{"city": "Oslo"}'


def calls(*arguments: str, **fields: Any) -> dict[str, Any]:
    """A message with calls of the probe's tool."""
    made = [tool_call("weather", text)["tool_calls"][0] for text in arguments]
    return {"tool_calls": [{**call, "id": f"call_{n}"} for n, call in enumerate(made)], **fields}


@pytest.fixture
async def model(fake: FakeProvider) -> AsyncIterator[HttpModel]:
    model = HttpModel(fake.url, KEY, model_name="m1")
    yield model
    await model.close()


async def probe(model: HttpModel, price: Price | None = PRICE) -> dict[str, Any]:
    [result] = await Deployments(model, Path("none.yaml"), price).test(None)
    return result


def remarks(result: dict[str, Any]) -> set[str]:
    """The names of the findings that need something of the user."""
    return {finding["name"] for finding in result["findings"] if finding["remedy"]}


def seen(result: dict[str, Any], name: str) -> str:
    [text] = [finding["behaviour"] for finding in result["findings"] if finding["name"] == name]
    return str(text)


async def test_a_model_that_does_all_gets_no_remark(fake: FakeProvider, model: HttpModel) -> None:
    thought = calls(BERN, reasoning_content="They want Bern.")
    thought["tool_calls"][0]["extra_content"] = {"google": {"thought_signature": "c2ln"}}
    fake.replies.extend(
        [{"content": "ok"}, {"content": "ok then"}, thought, {"content": "Rain."}, calls(BERN, OSLO)]
    )
    fake.replies.append({"content": OSLO})
    result = await probe(model)
    assert result["ok"] and result["tools"] and remarks(result) == set(), result
    assert seen(result, "parallel") == "2 calls in one reply"
    assert seen(result, "wanted back") == "extra_content, reasoning_content: sent back, and taken"
    assert seen(result, "connections") == "are reused"
    assert len(fake.calls) == 7 and sum(call.body["max_tokens"] for call in fake.calls) <= 900
    assert fake.calls[3].body["messages"][1]["reasoning_content"] == "They want Bern."
    assert result["cost_usd"] == "0.000175"  # 7 calls of 11 and 7 tokens


async def test_a_stream_that_loses_calls_of_tools_is_told_from_ignored_tools(
    fake: FakeProvider, model: HttpModel
) -> None:
    fake.replies.extend([{"content": "ok"}, {"content": "ok then"}, {"content": ""}, calls(BERN)])
    result = await probe(model)
    [finding] = [finding for finding in result["findings"] if finding["name"] == "tool"]
    assert "a stream loses the call" in finding["behaviour"]
    assert finding["remedy"] == "Set stream = false under [models]"
    fake.replies.clear()
    ignored = await probe(model)
    assert seen(ignored, "tool").startswith("ignored") and not ignored["tools"]
    assert remarks(ignored) == {"tool", "schema"}


async def test_a_server_that_says_nothing_of_tokens_and_closes_connections_gets_remarks(
    fake: FakeProvider, model: HttpModel
) -> None:
    fake.usage.clear()
    fake.headers["connection"] = "close"
    fake.replies.extend([{"content": "ok"}, {"content": "ok"}])
    result = await probe(model, price=None)
    assert seen(result, "usage") == "tokens are counted in no call"
    assert {"stream", "usage", "cost", "connections"} <= remarks(result), result["findings"]


async def test_a_refused_field_and_a_refused_schema_are_told_and_no_failure() -> None:
    async with FakeProvider(only="m1") as strict:
        model = HttpModel(strict.url, KEY, model_name="m1")
        try:
            result = await probe(model)
        finally:
            await model.close()
    assert result["ok"] and seen(result, "unknown field").startswith("refused")


async def test_a_server_that_refuses_to_force_a_call_is_called_without() -> None:
    class Unforced(FakeProvider):
        def refusal_of(self, body: dict[str, Any]) -> web.Response | None:
            refused = {"detail": [{"loc": ["body", "tool_choice"], "msg": "Input should be a dictionary"}]}
            return web.json_response(refused, status=422) if body.get("tool_choice") == "required" else None

    async with Unforced() as unforced:
        model = HttpModel(unforced.url, KEY, model_name="m1")
        unforced.replies.extend([{"content": "ok"}, {"content": "ok then"}])
        unforced.replies.extend([calls(BERN), {"content": "Rain."}, calls(BERN, OSLO)])
        try:
            result = await probe(model)
        finally:
            await model.close()
    assert result["ok"] and result["tools"], result
    assert seen(result, "tool choice").startswith("`required` is refused: ")
    assert "tool choice" in remarks(result)
    assert seen(result, "tool") == "is called" and seen(result, "result") == "is taken"
    assert seen(result, "parallel") == "2 calls in one reply"


async def test_a_template_without_tools_is_known_from_llama_cpp(fake: FakeProvider, model: HttpModel) -> None:
    fake.props = {"chat_template_caps": {"supports_tools": False}}
    fake.headers["server"] = "llama.cpp"
    result = await probe(model)
    assert result["ok"] and not result["tools"]
    assert "ignores tools: the chat template of its model has none" in seen(result, "tool")


async def test_a_result_is_kept_for_its_server_and_names_what_is_amiss(
    fake: FakeProvider, model: HttpModel, tmp_path: Path
) -> None:
    assert describe_model(model.name, tmp_path) == f"{model.name}; not proved here: mesh models test"
    keep_results(tmp_path, [await probe(model)], f"{model.name} (as LITELLM_BASE_URL says)")
    proved = describe_model(model.name, tmp_path)
    assert isinstance(proved, Caution) and "; proved here " in proved and "tool ignored" in proved
    assert "not proved here" in describe_model("http http://127.0.0.1:1", tmp_path)
    stored = json.loads((tmp_path / "models.json").read_text())
    stored["m1"]["meshwright"] = "0.0.9"
    (tmp_path / "models.json").write_text(json.dumps(stored))
    assert "with another version of Meshwright: mesh models test" in describe_model(model.name, tmp_path)
    fake.faults.append(Fault(status=401))
    failed = await probe(model)
    assert failed["error"]["type"] == "Unauthorized"
    keep_results(tmp_path, [failed], model.name)
    assert "(m1 Unauthorized): mesh models test" in describe_model(model.name, tmp_path)
