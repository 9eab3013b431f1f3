"""Spans have the attributes that docs/traces.md says, and no other."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.semconv._incubating.attributes import gen_ai_attributes as published

from meshwright import Agent, Capability, ToolFailed, tool
from meshwright.core.access import Role
from meshwright.core.errors import ModelError
from meshwright.core.messages import Caller, Usage
from meshwright.core.otel import SdkSpans
from meshwright.core.tracing import Tracing
from meshwright.mesh.orchestration.tasks import Tasks
from meshwright.models.port import Model, ModelReply, ModelRequest, OnDelta
from meshwright.parts.llmops.operations import PromptRegistry
from meshwright.parts.llmops.records import PromptRequest
from meshwright.testing import ScriptedModel, tool_call
from tests.support.model_api import HELLO, Service, service

PAGE = Path(__file__).parents[3] / "docs/traces.md"
KINDS = {"submit task": "submit", "invoke_agent": "agent", "chat": "chat", "embeddings": "chat"}
KINDS |= {"execute_tool": "tool"}
PROMPT = "---\ntags: [a]\nvariables: []\n---\nBe brief."
REVISION = "5e6f7a8b" * 5
SECRET_WORDS = "the words of a person"
LONG = {
    "sender": "pm",
    "receiver": "teller",
    "project_id": "p",
    "task_summary": " ".join(map(str, range(900))),
}
"""A context that rules alone make not short enough."""
CHANGED_BY_0_1_0 = {
    "gen_ai.agent.id",  # of hosted agents alone: spans of agents in the process have only a name
    "gen_ai.usage.cache_creation.input_tokens",
    "gen_ai.usage.cache_write.input_tokens",
    "gen_ai.workflow.name",
}
"""The names that v0.1.0 has dropped or added since the conventions' last Python package."""
REPLY = ModelReply(
    content="Brief.",
    model="gpt-5.4",
    usage=Usage(
        prompt_tokens=100, completion_tokens=20, cached_tokens=60, reasoning_tokens=5, cache_write_tokens=7
    ),
    cost_usd=Decimal("0.0021"),
)


class Teller(Agent):
    """Looks things up, and tells."""

    agent_id = "teller"
    capabilities = (Capability("telling", preferred=True),)

    @tool(idempotent=True)
    async def look_up(self, what: str) -> str:
        """Look a thing up."""
        if what == "nothing":
            raise ToolFailed("there is no such thing")
        return f"{what} is {SECRET_WORDS}"


class Broken:
    """A model that fails."""

    name = "broken"

    async def complete(self, request: ModelRequest, on_delta: OnDelta | None = None) -> ModelReply:
        raise ModelError("no")

    async def close(self) -> None:
        pass


class Spans:
    """The finished spans of a mesh."""

    def __init__(self, tracing: Tracing) -> None:
        self.stored: list[Mapping[str, Any]] = []
        self._tracing, self._exporter = tracing, InMemorySpanExporter()
        tracing.publish_to(SdkSpans(SimpleSpanProcessor(self._exporter)))
        tracing.publish_to(self._take)

    def _take(self, trace_id: str, spans: Sequence[Mapping[str, Any]]) -> None:
        self.stored += spans

    async def sent(self, beginning: str = "") -> list[tuple[str, Mapping[str, Any]]]:
        """Name and attributes of those whose name begins so, as exporters send them."""
        await self._tracing.flush()
        spans = [(span.name, span.attributes or {}) for span in self._exporter.get_finished_spans()]
        return [(name, attributes) for name, attributes in spans if name.startswith(beginning)]

    async def named(self, beginning: str) -> list[Mapping[str, Any]]:
        """The attributes of those whose name begins so."""
        return [attributes for _, attributes in await self.sent(beginning)]


def table() -> dict[str, set[str]]:
    """The attributes that the page says of each kind of span."""
    found: dict[str, set[str]] = defaultdict(set)
    for names, kinds in re.findall(r"^\| (`.*?) \| ([a-z, ]+) \|", PAGE.read_text(), re.MULTILINE):
        for kind in kinds.split(", "):
            found[kind].update(re.findall(r"`([a-z_.]+)`", names))
    return found


@asynccontextmanager
async def traced(folder: Path, model: Model, *, content: bool) -> AsyncIterator[tuple[Service, Spans]]:
    (folder / ".git").mkdir(exist_ok=True)
    (folder / ".git/HEAD").write_text(REVISION)
    (folder / "prompts").mkdir(exist_ok=True)
    (folder / "prompts/teller.prompt").write_text(PROMPT)
    settings = {"trace_content": content, "models": {"park": False}}
    async with service(folder, answering=model, agents=[Teller], **settings) as running:
        assert isinstance(running.mesh.tracing, Tracing)
        yield running, Spans(running.mesh.tracing)


async def ask(running: Service, **fields: Any) -> str:
    outcome = await running.mesh.get(Tasks).ask("teller", SECRET_WORDS, **fields)
    return outcome.task_id


async def use_everything(running: Service) -> None:
    await ask(running)
    for path, body in (
        ("/v1/chat/completions", {"model": "fast", "messages": HELLO}),
        ("/v1/messages", {"model": "fast", "messages": HELLO, "max_tokens": 5}),
        ("/v1/embeddings", {"model": "fast", "input": "Hello"}),
        ("/complete", {"model": "fast", "messages": HELLO}),
        ("/compress", LONG),
    ):
        status, answer = await running.post(path, body)
        assert status == 200, answer


async def use_registered(running: Service) -> None:
    """A task with a prompt that is registered, and live."""
    registry = running.mesh.get(PromptRegistry)
    admin = Caller(requested_by="ada", key_id="key", roles=frozenset({Role.ADMIN, Role.OPERATOR}))
    await registry.register(admin, PromptRequest(name="teller", template="Be brief."))
    await registry.label(admin, "teller", "production", 1)
    await ask(running)


def everything() -> ScriptedModel:
    calls = tool_call("look_up", what="it"), tool_call("look_up", what="nothing")
    return ScriptedModel(*calls, REPLY.model_copy(update={"cache_hit": True}), *[REPLY] * 4)


async def test_spans_have_the_attributes_of_the_table(tmp_path: Path) -> None:
    found: dict[str, set[str]] = defaultdict(set)
    uses = (everything(), use_everything), (ScriptedModel(REPLY), use_registered), (Broken(), ask)
    for model, run in uses:
        async with traced(tmp_path, model, content=True) as (running, spans):
            await run(running)
            for name, attributes in await spans.sent():
                found[next(kind for beginning, kind in KINDS.items() if name.startswith(beginning))] |= (
                    attributes.keys()
                )
    assert found == table()


def test_each_gen_ai_name_is_one_of_the_conventions() -> None:
    released = {value for name, value in vars(published).items() if name.startswith("GEN_AI_")}
    released ^= CHANGED_BY_0_1_0
    names = {name for names in table().values() for name in names if name.startswith("gen_ai.")}
    assert names and names - released == set()


async def test_calls_say_provider_tokens_cost_session_and_prompt(tmp_path: Path) -> None:
    async with traced(tmp_path, ScriptedModel(REPLY), content=False) as (running, spans):
        task_id = await ask(running)
        [chat], [agent] = await spans.named("chat"), await spans.named("invoke_agent")
    assert (chat["gen_ai.provider.name"], chat["session.id"]) == ("openai", task_id)
    assert chat["gen_ai.usage.cache_read.input_tokens"] == 60
    assert chat["gen_ai.usage.reasoning.output_tokens"] == 5
    assert json.loads(chat["langfuse.observation.usage_details"]) == {
        "input": 40,
        "input_cached_tokens": 60,
        "output": 15,
        "output_reasoning_tokens": 5,
        "total": 120,
    }
    assert (chat["meshwright.cost_usd"], json.loads(chat["mlflow.llm.cost"])) == (
        0.0021,
        {"total_cost": 0.0021},
    )
    assert json.loads(chat["langfuse.observation.cost_details"]) == {"total": 0.0021}
    for span in (chat, agent):
        assert span["gen_ai.prompt.name"] == "teller" and "langfuse.observation.prompt.name" not in span
        assert span["meshwright.prompt.version"].endswith(f" {REVISION[:12]}:prompts/teller.prompt")
    assert agent["meshwright.task.status"] == "succeeded"


async def test_a_registered_prompt_has_the_name_and_number_by_which_langfuse_links_it(tmp_path: Path) -> None:
    async with traced(tmp_path, ScriptedModel(REPLY), content=False) as (running, spans):
        await use_registered(running)
        [chat] = await spans.named("chat")
    assert chat["langfuse.observation.prompt.name"] == "teller"
    assert chat["langfuse.observation.prompt.version"] == 1
    assert chat["meshwright.prompt.version"].endswith(" registry:v1")


async def test_contents_have_the_form_of_the_conventions(tmp_path: Path) -> None:
    model = ScriptedModel(tool_call("look_up", what="it"), REPLY)
    async with traced(tmp_path, model, content=True) as (running, spans):
        await ask(running)
        _, chat = await spans.named("chat")
        [called] = await spans.named("execute_tool")
        [agent] = await spans.named("invoke_agent")
    assert json.loads(chat["gen_ai.system_instructions"]) == [{"type": "text", "content": "Be brief."}]
    asked, call, result = json.loads(chat["gen_ai.input.messages"])
    assert asked == {"role": "user", "parts": [{"type": "text", "content": SECRET_WORDS}]}
    assert (call["role"], call["parts"][0]["type"], call["parts"][0]["name"]) == (
        "assistant",
        "tool_call",
        "look_up",
    )
    assert result["parts"][0]["type"] == "tool_call_response"
    assert result["parts"][0]["response"] == called["gen_ai.tool.call.result"] == f"it is {SECRET_WORDS}"
    said = {"role": "assistant", "parts": [{"type": "text", "content": "Brief."}]}
    assert json.loads(chat["gen_ai.output.messages"]) == [{**said, "finish_reason": "stop"}]
    assert json.loads(agent["gen_ai.output.messages"]) == [said]


async def test_nothing_that_was_said_is_in_spans_without_the_switch(tmp_path: Path) -> None:
    async with traced(tmp_path, everything(), content=False) as (running, spans):
        await use_everything(running)
        await spans.named("")
    said = json.dumps(spans.stored)
    assert not [words for words in (SECRET_WORDS, "Brief.", "Be brief", "Hello?") if words in said]


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/complete", "/compress"])
async def test_calls_of_clients_join_their_trace(tmp_path: Path, path: str) -> None:
    trace_id = "4bf92f3577b34da6a3ce929d0e0e4736"
    body = {"model": "fast", "messages": HELLO} if path != "/compress" else LONG
    async with traced(tmp_path, ScriptedModel(REPLY), content=False) as (running, spans):
        await running.post(path, body, traceparent=f"00-{trace_id}-00f067aa0ba902b7-01")
        await spans.named("")
    [span] = spans.stored
    assert (span["trace_id"], span["parent_span_id"]) == (trace_id, "00f067aa0ba902b7")
