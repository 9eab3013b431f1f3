"""Streaming: what a model writes is shown while it writes, gathered into pieces, and never kept."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from meshwright import Agent, Capability, TaskRequest, tool
from meshwright.agents.run.replies import MAX_CHARS, PAUSE_SECONDS, Deltas
from meshwright.core.events import Event
from meshwright.engine.events.filter import EventFilter
from meshwright.engine.events.tails import MAX_UNLOGGED
from meshwright.mesh.app import build_mesh
from meshwright.mesh.mesh import Mesh
from meshwright.mesh.orchestration.tasks import Tasks
from meshwright.models.errors import ModelRefused
from meshwright.models.port import STREAM_RESTART, ModelReply, ModelRequest, OnDelta, ToolCall
from meshwright.testing import MeshUnderTest, mesh_for
from tests.support.settings import load_settings

PATIENCE_SECONDS = 60
Said = Sequence[str | Callable[[], Awaitable[object]]]


class Typist:
    """A model that writes each answer piece by piece, and waits in between where it is told to."""

    name = "typist"

    def __init__(self, *answers: Said | ToolCall | Exception) -> None:
        self.answers = list(answers)
        self.streamed: list[bool] = []

    async def complete(self, request: ModelRequest, on_delta: OnDelta | None = None) -> ModelReply:
        if request.user == "context-service":
            raise ModelRefused("it does without")
        answer = self.answers.pop(0)
        self.streamed.append(on_delta is not None)
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, ToolCall):
            return self._reply("", tool_calls=(answer,))
        whole = ""
        for piece in answer:
            if not isinstance(piece, str):
                await piece()
                continue
            whole = "" if piece == STREAM_RESTART else whole + piece
            if on_delta is not None:
                on_delta(piece)
        return self._reply(whole)

    async def close(self) -> None: ...

    def _reply(self, content: str, **fields: Any) -> ModelReply:
        return ModelReply(content=content, model=self.name, cost_usd=Decimal(0), **fields)


class Writer(Agent):
    """Writes, with a tool at hand."""

    agent_id = "writer"
    capabilities = (Capability("writing"),)

    @tool(idempotent=True)
    async def look_up(self) -> str:
        """Look it up."""
        return "found"


LOOK_UP = ToolCall(id="c1", name="look_up", arguments="{}")


def deltas(mesh: MeshUnderTest) -> list[dict[str, Any]]:
    return mesh.events("model.delta").payloads


# Through a mesh


async def test_an_answer_is_shown_while_it_is_written_and_kept_nowhere() -> None:
    begun, opened = asyncio.Event(), asyncio.Event()
    model = Typist(["The beginning of a longer answer,", opened.wait, " and its end."])
    async with mesh_for(Writer, model=model) as mesh:
        mesh.mesh.runtime.listen("task-progress", lambda event: begun.set() if is_delta(event) else None)
        receipt = await mesh.submit(agent_id="writer", payload={"text": "Write."})
        await asyncio.wait_for(begun.wait(), PATIENCE_SECONDS)
        assert not mesh.events("model.called")
        opened.set()
        outcome = await mesh.outcome(receipt.task_id)
        first, second = mesh.events("model.delta")
        kept = await mesh.mesh.log.query(EventFilter(task_id=receipt.task_id, limit=1000))
        order = [event.event_type for event in mesh.events(task_id=receipt.task_id)]
    assert outcome.text == "The beginning of a longer answer, and its end."
    assert first.payload == {"text": "The beginning of a longer answer,", "n": 1, "step": 2, "attempt": 1}
    assert (second.payload["text"], second.payload["n"]) == (" and its end.", 2)
    assert (first.task_id, first.agent_id, first.seq) == (receipt.task_id, "writer", None)
    assert order.index("model.called") > order.index("model.delta")
    assert not [event for event in kept if is_delta(event)]


def is_delta(event: Event) -> bool:
    return event.event_type == "model.delta"


async def test_text_between_tools_is_streamed_by_step() -> None:
    class Talkative(Typist):
        async def complete(self, request: ModelRequest, on_delta: OnDelta | None = None) -> ModelReply:
            reply = await super().complete(request, on_delta)
            return reply.model_copy(update={"tool_calls": (LOOK_UP,)}) if self.answers else reply

    async with mesh_for(Writer, model=Talkative(["I look it up."], ["It is found."])) as mesh:
        assert (await mesh.ask("writer", "Write.")).text == "It is found."
        assert [(each["step"], each["text"]) for each in deltas(mesh)] == [
            (2, "I look it up."),
            (4, "It is found."),
        ]


async def test_another_attempt_sends_restart_and_counts_from_one() -> None:
    long = "words that are long enough to be shown at once"
    model = Typist([long, STREAM_RESTART, STREAM_RESTART, "better"])
    async with mesh_for(Writer, model=model) as mesh:
        assert (await mesh.ask("writer", "Write.")).text == "better"
        told = [{key: each[key] for key in each if key not in ("step", "attempt")} for each in deltas(mesh)]
    assert told == [{"text": long, "n": 1}, {"restart": True}, {"text": "better", "n": 1}]


async def test_what_was_gathered_of_a_call_that_fails_is_not_shown() -> None:
    async def fails() -> None:
        raise ModelRefused("no more")

    async with mesh_for(Writer, model=Typist(["too short", fails])) as mesh:
        assert (await mesh.ask("writer", "Write.")).status == "failed"
        await asyncio.sleep(2 * PAUSE_SECONDS)  # nothing is to happen, so there is nothing to wait for
        assert deltas(mesh) == []


async def test_streaming_can_be_switched_off() -> None:
    model = Typist(["The answer."])
    async with mesh_for(Writer, model=model, models={"stream": False}) as mesh:
        assert (await mesh.ask("writer", "Write.")).text == "The answer."
        assert deltas(mesh) == []
    assert model.streamed == [False]


async def test_an_answer_in_a_shape_is_not_streamed() -> None:
    class Shape(BaseModel):
        title: str

    shaped = type("Shaped", (Writer,), {"answers": Shape})
    model = Typist(LOOK_UP, ['{"title": "A"}'])
    async with mesh_for(shaped, model=model) as mesh:
        assert (await mesh.ask("writer", "Write.")).result == {"title": "A"}
        assert deltas(mesh) == []
    assert model.streamed == [False, False]


async def test_a_replayed_step_streams_nothing(tmp_path: Path) -> None:
    held, opened = asyncio.Event(), asyncio.Event()

    class Holder(Agent):
        agent_id = "writer"
        capabilities = (Capability("writing"),)

        @tool(idempotent=True)
        async def look_up(self) -> str:
            """Look it up."""
            held.set()
            await opened.wait()
            return "found"

    class FirstTalks(Typist):
        async def complete(self, request: ModelRequest, on_delta: OnDelta | None = None) -> ModelReply:
            reply = await super().complete(request, on_delta)
            return reply.model_copy(update={"tool_calls": (LOOK_UP,)})

    def built(model: Any) -> tuple[Mesh, list[Event]]:
        mesh = build_mesh(load_settings(tmp_path), project=tmp_path, agents=[Holder], model=model)
        seen: list[Event] = []
        mesh.runtime.listen("task-progress", lambda event: seen.append(event) if is_delta(event) else None)
        return mesh, seen

    async with asyncio.timeout(PATIENCE_SECONDS):
        mesh, seen = built(FirstTalks(["I look it up."]))
        await mesh.start()
        receipt = await mesh.get(Tasks).submit(TaskRequest(agent_id="writer", payload={"text": "Write."}))
        await held.wait()
        await mesh.stop(drain_seconds=0)
        assert [event.payload["text"] for event in seen] == ["I look it up."]
        opened.set()
        mesh, seen = built(Typist(["It is found."]))
        async with mesh:
            assert (await mesh.get(Tasks).outcome(receipt.task_id)).text == "It is found."
        assert [event.payload["text"] for event in seen] == ["It is found."]


# Gathering


async def gathered(*pieces: str, pause_seconds: float = 0.0) -> list[tuple[float, dict[str, Any]]]:
    loop = asyncio.get_running_loop()
    shown: list[tuple[float, dict[str, Any]]] = []
    with Deltas(lambda payload: shown.append((loop.time(), payload))) as deltas:
        for piece in pieces:
            deltas(piece)
            await asyncio.sleep(pause_seconds)
    return shown


@pytest.mark.parametrize("pause_seconds", [0.0, 0.0005, 0.03])
async def test_pieces_are_at_most_ten_a_second_and_lose_nothing(pause_seconds: float) -> None:
    pieces = [f"w{n} " for n in range(3000 if not pause_seconds else int(0.7 / pause_seconds))]
    begun = asyncio.get_running_loop().time()
    shown = await gathered(*pieces, pause_seconds=pause_seconds)
    assert "".join(payload["text"] for _, payload in shown) == "".join(pieces)
    assert [payload["n"] for _, payload in shown] == list(range(1, len(shown) + 1))
    times = [time for time, _ in shown[:-1]]  # the last is what is left
    # Not from each to the next: a busy machine may show one late and the next in time.
    assert len(times) <= 1 + (times[-1] - begun) / PAUSE_SECONDS


async def test_a_slow_models_words_are_shown_after_a_tenth_of_a_second() -> None:
    shown = await gathered("slow ", "words", pause_seconds=1.5 * PAUSE_SECONDS)
    assert [payload["text"] for _, payload in shown] == ["slow ", "words"]


async def test_halves_of_a_character_are_joined_and_a_lone_one_is_replaced() -> None:
    shown = await gathered("a\ud83d", "\ude00b", "\ud83d")
    assert "".join(payload["text"] for _, payload in shown) == "a😀b\ufffd"


async def test_a_piece_has_a_largest_size() -> None:
    shown = await gathered("x" * (2 * MAX_CHARS + 1))
    assert [len(payload["text"]) for _, payload in shown] == [MAX_CHARS, MAX_CHARS, 1]


async def test_what_is_over_that_size_does_not_wait_for_more() -> None:
    sizes: list[int] = []
    done = asyncio.Event()

    def show(payload: dict[str, Any]) -> None:
        sizes.append(len(payload["text"]))
        if len(sizes) == 2:
            done.set()

    with Deltas(show) as deltas:
        deltas("x" * (MAX_CHARS + 1))
        await asyncio.wait_for(done.wait(), PATIENCE_SECONDS)
    assert sizes == [MAX_CHARS, 1]


# Following


async def test_a_reader_that_does_not_read_costs_the_writer_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async with mesh_for(Writer, model=Typist(["."])) as mesh:
        following = mesh.mesh.log.follow(EventFilter(after_seq=0), live=True)
        seen = await anext(following)
        caught_up = asyncio.ensure_future(anext(following))
        await asyncio.sleep(0)
        for n in range(3 * MAX_UNLOGGED):
            mesh.mesh.runtime.broadcast(piece(n))
        outcome = await mesh.ask("writer", "Write.")
        seen += await caught_up
        while seen[-1].event_type != "task.succeeded":
            seen += await asyncio.wait_for(anext(following), PATIENCE_SECONDS)
        await following.aclose()
        kept = [event for event in seen if event.seq is not None]
        assert [event.seq for event in kept] == list(range(1, len(kept) + 1))
        assert kept[-1].task_id == outcome.task_id
        assert 0 < sum(map(is_delta, seen)) < 2 * MAX_UNLOGGED
    assert not caplog.records


def piece(n: int) -> Event:
    return Event(
        id=f"p{n}",
        event_type="model.delta",
        topic="task-progress",
        time="2026-01-01T00:00:00Z",
        task_id="t",
        payload={"text": "x", "n": n},
    )


async def test_a_reader_sees_the_pieces_of_what_it_follows_alone() -> None:
    async with mesh_for(Writer) as mesh:
        others = [EventFilter(task_id="other"), EventFilter(task_id="t", tenant_id="other")]
        wanted = [EventFilter(task_id="t"), EventFilter(event_type="model.delta")]
        readers = [mesh.mesh.log.follow(each, live=True) for each in (*others, *wanted)]
        reading = [asyncio.ensure_future(anext(reader)) for reader in readers]
        await asyncio.sleep(0)
        mesh.mesh.runtime.broadcast(piece(1))
        await asyncio.wait(reading[2:], timeout=PATIENCE_SECONDS)
        assert [each.done() for each in reading] == [False, False, True, True]
        assert [[piece.id for piece in each.result()] for each in reading[2:]] == [["p1"], ["p1"]]
        for each in reading[:2]:
            each.cancel()
        await asyncio.wait(reading[:2])
