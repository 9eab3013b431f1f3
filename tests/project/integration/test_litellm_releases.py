"""A newer release of LiteLLM that loses nothing is said: then the pin may move."""

import json
from pathlib import Path

import pytest

from meshwright.models.litellm import RELEASE
from tests.support.fake_provider import FakeProvider, Fault, tool_calls
from tests.support.installed import UV, install
from tests.support.services import unavailable

ROOT = Path(__file__).resolve().parents[3]
WORSE = frozenset({"1.110.2"})
"""Releases that pass here and fail `pytest tests/models -k litellm`: this one leaves late streams open."""
CONFIG = """\
model_list:
  - model_name: default
    litellm_params: {model: mistral/mistral-small-latest, api_key: k, api_base: FAKE_URL}
router_settings: {disable_cooldowns: true}
"""
LONG = "The lighthouse keeper wrote down each ship that passed. " * 40
CALLS = tool_calls(("look", '{"place": "north"}', "call_1"), ("look", '{"place": "south"}', "call_2"))
TRIAL = """
import asyncio, json, pathlib
import meshwright.models.litellm as library
from meshwright.core.errors import ModelError
from meshwright.models.picker import Picker
from meshwright.models.port import ChatMessage, ModelRequest, ToolSpec

library.RELEASE = library.installed_release()
LOOK = ToolSpec(name="look", description="Look.", parameters={"type": "object", "properties": {}})

async def one(model, streamed, seconds=60.0):
    pieces = []
    request = ModelRequest(
        messages=(ChatMessage(role="user", content="Go on"),),
        user="a",
        tools=(LOOK,),
        timeout_seconds=seconds,
    )
    try:
        reply = await model.complete(request, pieces.append if streamed else None)
    except ModelError as error:
        return [error.code]
    calls = [[call.name, json.loads(call.arguments), call.id] for call in reply.tool_calls]
    is_counted = streamed or (reply.usage.prompt_tokens, reply.usage.completion_tokens) == (11, 7)
    text = "".join(pieces) if streamed else reply.content
    return [reply.content, text, calls, is_counted, reply.finish_reason]

async def main():
    model = Picker(pathlib.Path("litellm_config.yaml"), environment={})
    results = [await one(model, streamed) for _ in range(6) for streamed in (False, True)]
    results.append(await one(model, True, seconds=3.0))
    print(json.dumps({"release": library.RELEASE, "results": results}))
    await model.close()

asyncio.run(main())
"""
LOOKS = [["look", {"place": "north"}, "call_1"], ["look", {"place": "south"}, "call_2"]]
EXPECTED = [
    *[[LONG, LONG, [], True, "stop"]] * 2,
    *[["", "", LOOKS, True, "tool_calls"]] * 2,
    *[["RateLimited"]] * 2,
    *[["ContextTooLong"]] * 2,
    *[["ModelUnavailable"]] * 2,
    *[["ContentRefused"]] * 2,
    ["ModelTimeout"],
]


@pytest.mark.soak("make newest tries it")
async def test_no_newer_release_of_litellm_loses_nothing(fake: FakeProvider, tmp_path: Path) -> None:
    if UV is None:
        unavailable("needs uv: pip overrides no pin")
    (tmp_path / "overrides.txt").write_text(f"litellm>={RELEASE}\n")
    options = ("--override", str(tmp_path / "overrides.txt"), "--upgrade-package", "litellm")
    there = install(tmp_path, f"{ROOT}[litellm]", *options)
    (there.folder / "litellm_config.yaml").write_text(CONFIG.replace("FAKE_URL", f"{fake.url}/v1"))
    for fault in (
        *[None] * 4,
        *[Fault(status=429)] * 2,
        *[Fault(status=400, body={"error": {"message": "x", "code": "context_length_exceeded"}})] * 2,
        *[Fault(kind="drop")] * 2,
        *[None] * 2,
        Fault(kind="stall"),
    ):
        fake.faults.append(fault or Fault(kind="slow"))
    held_back = {"content": "", "finish_reason": "content_filter"}
    fake.replies.extend([{"content": LONG}] * 2 + [CALLS] * 2 + [{"content": LONG}] * 2 + [held_back] * 2)
    done = await there.run("-c", TRIAL)
    trial = json.loads(done.out.splitlines()[-1]) if done.status == 0 else {"release": "", "results": []}
    is_newer = trial["release"] not in (RELEASE, *WORSE)
    lost = [n for n, pair in enumerate(zip(trial["results"], EXPECTED, strict=False)) if pair[0] != pair[1]]
    print(f"LiteLLM {trial['release']}: lost {lost}", done.err[-2_000:])
    good = f"LiteLLM {trial['release']} loses nothing here: run pytest tests/models -k litellm with it"
    assert not (is_newer and trial["results"] and not lost), good
