"""The chain that every call of a model passes: one order, and few frames."""

from __future__ import annotations

import traceback
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from meshwright.core.errors import ConfigError
from meshwright.core.messages import Usage
from meshwright.engine.events.filter import EventFilter
from meshwright.mesh.app import build_mesh
from meshwright.mesh.orchestration.tasks import Tasks
from meshwright.models.component import wrapped
from meshwright.models.errors import Unsupported
from meshwright.models.http import ApiModel
from meshwright.models.port import Model, ModelReply, ModelRequest, ModelWrapper, OnDelta, Wrapper
from meshwright.testing import mesh_for
from tests.support.interrupted_mesh import keeper
from tests.support.settings import load_settings

RUNTIME = str(Path(__file__).parents[3] / "runtime")
MAX_FRAMES = 11  # from a method of Run to the adapter, both counted
USAGE = Usage(prompt_tokens=10, completion_tokens=1)
CONFIG = """
model_list:
  - model_name: default
    litellm_params: {model: openai/gpt-5.4, api_key: os.environ/OPENAI_API_KEY}
"""


def answer(content: str = "Done.") -> ModelReply:
    return ModelReply(content=content, model="gpt-5.4", usage=USAGE, cost_usd=Decimal("0.25"))


@pytest.mark.parametrize("named", ["", "openai/gpt-5.4-nano"])
async def test_few_frames_lie_between_a_run_and_the_wire(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: str
) -> None:
    stacks: list[list[str]] = []

    async def complete(self: ApiModel, request: ModelRequest, on_delta: OnDelta | None = None) -> ModelReply:
        own = [frame for frame in traceback.extract_stack() if frame.filename.startswith(RUNTIME)]
        first = next(n for n, frame in enumerate(own) if frame.filename.endswith("/run/run.py"))
        stacks.append([f"{Path(frame.filename).stem}.{frame.name}" for frame in own[first:]])
        return answer()

    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    monkeypatch.setattr(ApiModel, "complete", complete)
    (tmp_path / "litellm_config.yaml").write_text(CONFIG)
    settings = load_settings(tmp_path, store="memory", model="router")
    async with build_mesh(settings, project=tmp_path, agents=[keeper(model=named)]) as mesh:
        assert (await mesh.get(Tasks).ask("keeper", "Do it.")).success
    frames = [*stacks[-1], "http.complete"]
    assert frames[0] == "run.converse"
    assert len(frames) <= MAX_FRAMES, " ".join(frames)


class NoSchemas:
    """An adapter that takes no schema."""

    name = "no schemas"

    def __init__(self) -> None:
        self.requests: list[ModelRequest] = []

    async def complete(self, request: ModelRequest, on_delta: OnDelta | None = None) -> ModelReply:
        self.requests.append(request)
        if request.response_schema is not None:
            raise Unsupported("no", what="response_format")
        return answer("{}")

    async def close(self) -> None: ...


async def test_each_form_of_a_request_is_a_call_with_an_event_of_its_own() -> None:
    asked = ModelRequest(messages=(), user="keeper", response_schema={"type": "object"})
    model = NoSchemas()
    async with mesh_for(keeper(), model=model) as mesh:
        assert (await mesh.mesh.get(Model).complete(asked)).content == "{}"
        tail = mesh.mesh.log.tail(EventFilter(event_type="model.called", after_seq=0))
        events = [await anext(tail), await anext(tail)]
    assert [event.payload["outcome"] for event in events] == ["failed", "ok"]
    assert [event.id.rpartition("/")[2] for event in events] == [event.payload["call_id"] for event in events]
    assert [bool(request.tools) for request in model.requests] == [False, True]


def test_a_position_that_the_chain_does_not_have_is_named() -> None:
    outermost: Any = "outermost"
    with pytest.raises(ConfigError, match="no position 'outermost'") as refused:
        wrapped(NoSchemas(), [ModelWrapper(outermost, Wrapper)])
    assert "request, ledger, cache, retry, attempt" in str(refused.value)
