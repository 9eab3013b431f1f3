"""The context-service through its client: planned by rules, shortened by a model, never silent."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from meshwright.agents.context.memory import MemoryItem
from meshwright.agents.context.plan import CompressRequest, CompressResponse, context_request
from meshwright.agents.context.rules import ContextRule, Rules
from meshwright.agents.context.service import CONTEXT_SERVICE, ContextClient, ContextService
from meshwright.agents.context.text import count_tokens
from meshwright.agents.prompts import Prompts
from meshwright.core.messages import Usage
from meshwright.engine.kernel.envelope import ActorRef
from meshwright.engine.kernel.runtime import Runtime
from meshwright.engine.kernel.turns import ActorKind
from meshwright.models.errors import ModelUnavailable
from meshwright.models.port import CallContext, ModelReply, ModelRequest, OnDelta
from meshwright.testing.mesh import memory_runtime

PROMPTS = Path(__file__).resolve().parents[3] / "prompts"
SHORT = CompressRequest(
    sender="client", receiver="simple-agent", project_id="mesh", task_summary="Say where the event log is."
)
LONG = SHORT.model_copy(update={"sender_memories": ["The event log is a table of the file mesh.db. " * 20]})
GOOD = """METADATA:
sender: client
receiver: simple-agent
project_id: mesh
priority: 5
DOMAIN_CONTEXT:
- Say where the event log is: a table of mesh.db."""


class Scripted:
    """A model that answers what it was told to, or fails so, and keeps what it was asked."""

    name = "scripted"

    def __init__(self, answer: Callable[[ModelRequest], Any]) -> None:
        self.asked: list[ModelRequest] = []
        self._answer = answer

    async def complete(self, request: ModelRequest, on_delta: OnDelta | None = None) -> ModelReply:
        self.asked.append(request)
        answer = self._answer(request)
        if isinstance(answer, ModelReply):
            return answer
        if asyncio.isfuture(answer):
            await answer
        return ModelReply(
            content=str(answer), model="scripted-1", usage=Usage(prompt_tokens=200, completion_tokens=40)
        )

    async def close(self) -> None: ...


def saying(answer: str) -> Scripted:
    return Scripted(lambda _: answer)


def failing(error: Exception) -> Scripted:
    def fail(_: ModelRequest) -> str:
        raise error

    return Scripted(fail)


@pytest.fixture
async def runtime() -> AsyncIterator[Runtime]:
    runtime = memory_runtime()
    runtime.register(
        ActorKind.from_class(
            ContextService, type=CONTEXT_SERVICE, rules=Rules([ContextRule(token_ceiling=100)])
        )
    )
    await runtime.start()
    yield runtime
    await runtime.stop()


async def compress(runtime: Runtime, model: Any, request: CompressRequest = LONG) -> CompressResponse:
    return await ContextClient(runtime, model, Prompts(PROMPTS)).compress(
        request, context=lambda: CallContext(task_id="t1")
    )


async def test_a_text_under_the_ceiling_is_deterministic_and_asks_no_model(runtime: Runtime) -> None:
    model = saying(GOOD)
    response = await compress(runtime, model, SHORT)
    assert model.asked == []
    assert response.compressed_context.startswith("METADATA:\nsender: client")
    shown = response.model_dump()
    assert {name: shown[name] for name in shown.keys() - {"stats", "compressed_context"}} == {
        "success": True,
        "method": "deterministic",
        "validation_passed": True,
        "error": None,
    }


async def test_a_valid_text_of_the_model_is_used_over_the_ceiling(runtime: Runtime) -> None:
    response = await compress(runtime, saying(f"\n{GOOD}\n"))
    assert (response.method, response.compressed_context, response.error) == ("model", GOOD, None)
    assert response.validation_passed
    assert response.stats.output_tokens == count_tokens(GOOD)
    assert response.stats.ratio == pytest.approx(
        response.stats.output_tokens / response.stats.input_tokens, abs=1e-4
    )
    assert response.stats.duration_ms > 0


async def test_the_prompt_files_tags_choose_the_model(runtime: Runtime, tmp_path: Path) -> None:
    (tmp_path / "context-service.prompt").write_text("---\ntags: [small, local]\n---\nShorten it.")
    model = saying(GOOD)
    await ContextClient(runtime, model, Prompts(tmp_path)).compress(LONG)
    assert model.asked[0].tags == ("small", "local")


async def test_the_model_is_called_as_the_context_service_with_the_compression_tag(runtime: Runtime) -> None:
    model = saying(GOOD)
    await compress(runtime, model)
    (asked,) = model.asked
    assert (asked.user, asked.tags, asked.model) == ("context-service", ("compression",), "default")
    prompt = asked.context.prompt
    assert prompt is not None
    assert prompt.startswith("context-service@")
    assert asked.context == CallContext(purpose="compression", task_id="t1", prompt=prompt)
    assert [message.role for message in asked.messages] == ["system", "user"]
    assert "client hands to simple-agent" in asked.messages[0].content
    assert asked.messages[1].content.startswith("METADATA:")


@pytest.mark.parametrize(
    ("model", "why"),
    [
        (saying(GOOD.replace("mesh.db", "mesh.sqlite")), "not valid: 'mesh.sqlite' does not stand in"),
        (saying(""), "not valid: it does not begin with METADATA:"),
        (Scripted(lambda _: ModelReply(content=GOOD, model="m", finish_reason="length")), "it was cut off"),
        (failing(ModelUnavailable("no connection")), "ModelUnavailable: no connection"),
        (failing(KeyError("sk-secret")), "no model could shorten it: KeyError"),
        (None, "there is no compression model"),
    ],
    ids=["invented", "empty", "cut off", "unavailable", "broken", "none"],
)
async def test_without_a_valid_text_the_deterministic_one_stands_whole_and_says_why(
    runtime: Runtime, model: Any, why: str
) -> None:
    response = await compress(runtime, model)
    assert (response.success, response.method, response.validation_passed) == (
        True,
        "deterministic-fallback",
        False,
    )
    assert why in (response.error or "")
    assert response.compressed_context.count("mesh.db") == 20
    assert response.stats.over_ceiling and response.stats.output_tokens > 300
    assert "sk-secret" not in (response.error or "")


async def test_a_model_that_hangs_is_given_up(runtime: Runtime) -> None:
    hanging = Scripted(lambda _: asyncio.get_running_loop().create_future())
    response = await ContextClient(runtime, hanging, Prompts(PROMPTS), timeout_seconds=0.01).compress(LONG)
    assert response.error == "no model could shorten it within 0.01 seconds"


@pytest.mark.parametrize(("wish", "cache"), [("", True), ("cache: false", False)])
async def test_the_prompt_says_whether_a_cache_may_answer(
    runtime: Runtime, tmp_path: Path, wish: str, cache: bool
) -> None:
    (tmp_path / "context-service.prompt").write_text(f"---\ntags: [compression]\n{wish}\n---\nShorten it.")
    model = saying(GOOD)
    response = await ContextClient(runtime, model, Prompts(tmp_path)).compress(LONG)
    assert response.method == "model"
    assert [asked.cache for asked in model.asked] == [cache]


async def test_a_prompt_with_an_unknown_variable_is_replaced(runtime: Runtime, tmp_path: Path) -> None:
    (tmp_path / "context-service.prompt").write_text("---\ntags: [x]\nvariables: [mood]\n---\n{{mood}}")
    model = saying(GOOD)
    response = await ContextClient(runtime, model, Prompts(tmp_path)).compress(LONG)
    assert response.method == "model"
    assert "NEVER invent" in model.asked[0].messages[0].content


async def test_a_cancelled_caller_is_not_answered(runtime: Runtime) -> None:
    asked = asyncio.Event()

    def hang(_: ModelRequest) -> Any:
        asked.set()
        return asyncio.get_running_loop().create_future()

    caller = asyncio.create_task(compress(runtime, Scripted(hang)))
    await asked.wait()
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller


async def test_planning_leaves_nothing_behind(runtime: Runtime) -> None:
    await compress(runtime, None, SHORT)
    state = await runtime.read(ActorRef(CONTEXT_SERVICE, "default"))
    assert state is None or state.model_dump() == {}


RECALLED = context_request(
    sender="client", receiver="b", memories=[MemoryItem(memory_id="m1", scope="agent", text="Use WAL.")]
)
NOTHING = context_request(sender="client", receiver="b", memories=[])


@pytest.mark.parametrize("request_", [SHORT, LONG, RECALLED, NOTHING], ids=["short", "long", "run", "empty"])
async def test_rules_in_this_process_give_what_the_actor_gives(
    runtime: Runtime, request_: CompressRequest
) -> None:
    asked = await compress(runtime, None, request_)
    rules = Rules([ContextRule(token_ceiling=100)])
    here = ContextClient(memory_runtime(), None, Prompts(PROMPTS), rules=rules)  # not started: nobody to ask
    response = await here.compress(request_)
    assert response.model_copy(update={"stats": asked.stats}) == asked
    assert response.stats.input_tokens == asked.stats.input_tokens
