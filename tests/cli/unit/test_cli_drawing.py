"""The timeline of a task as a person sees it: which lines, in which order, how far in."""

import io
import re
import time
from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest

from meshwright.console.output import Line, timeline_line
from meshwright.console.timeline import Drawing, draw, drawing, print_answer, timeline
from meshwright.core.events import Event
from meshwright.edges.client.client import ENDINGS

CARD = {
    "agent_id": "architect-agent",
    "capability": "design-review",
    "score": 1.05,
    "weight": 1.0,
    "health": 1.0,
    "success": 1.0,
    "streak": 1.0,
    "preferred": 1.05,
}


def event(event_type: str, task_id: str = "01KAGDW9YJ3M0Q6M5S8R9VTKZB", **payload: Any) -> dict[str, Any]:
    return {
        "event_type": event_type,
        "task_id": task_id,
        "agent_id": "architect-agent",
        "payload": payload,
        "time": "2026-11-20T09:31:02Z",
    }


@pytest.mark.parametrize(
    ("given", "line"),
    [
        (
            event("task.accepted", capability="design-review", priority=9, thread_id="talk"),
            Line("accepted", "…9VTKZB  design-review  priority 9  thread talk"),
        ),
        (
            event("task.dispatched", attempt=2, agent_id="architect-agent", score_card=CARD),
            Line(
                "dispatched",
                "architect-agent  score 1.05 = weight 1 x health 1 x success 1 x preferred 1.05  attempt 2",
            ),
        ),
        (
            event("reply.cut_off", text="", tool_calls=[{"tool": "write_file", "arguments": "{"}]),
            Line("model", "cut off  in a call of write_file, which was not run"),
        ),
        (event("reply.cut_off", text="It is", tool_calls=[]), Line("model", "cut off  It is")),
        (
            event(
                "tool.called",
                tool="stauts",
                arguments="{}",
                ok=False,
                error="there is no tool 'stauts'; there are status, remember",
                duration_ms=None,
            ),
            Line("tool", "stauts  failed: there is no tool 'stauts'; there are status, remember"),
        ),
        (event("memory.recalled", count=2, tokens=1840), Line("memory", "2 recalled  1,840 tokens")),
        (event("memory.recalled", count=0, tokens=0), Line("memory", "nothing to recall")),
        (
            event("context.compressed", method="rules", input_tokens=1840, output_tokens=612),
            Line("context", "1,840 -> 612 tokens (rules)"),
        ),
        (
            event(
                "model.called",
                model="offline",
                tags=["architecture", "expensive"],
                user="architect-agent",
                usage={"prompt_tokens": 612, "completion_tokens": 40},
                cost_usd=0.00123,
                duration_ms=20.4,
                tool_calls=["delegate"],
            ),
            Line(
                "model",
                "offline  [architecture, expensive]  user=architect-agent"
                "  612 + 40 tokens  $0.0012  0.02 s  -> delegate",
            ),
        ),
        (
            event("model.called", model="gpt", user="a", usage=None, cost_usd=None, duration_ms=None),
            Line("model", "gpt  []  user=a  0 + 0 tokens  $?  0.00 s"),
        ),
        (
            event(
                "tool.called",
                tool="search_files",
                arguments={"query": "kill -9"},
                ok=True,
                result="matches: 4",
                duration_ms=3,
            ),
            Line("tool", 'search_files  query="kill -9"  0.00 s  -> matches: 4'),
        ),
        (
            event("tool.called", tool="read_file", arguments='{"path": "a b", "li', ok=True, duration_ms=3),
            Line("tool", 'read_file  {"path": "a b", "li  0.00 s'),
        ),
        (
            event(
                "tool.called",
                tool="read_file",
                arguments='{"path": "a", "n": 1}',
                ok=False,
                error={"type": "ToolFailed", "message": "no\nfile"},
            ),
            Line("tool", 'read_file  path="a" n=1  failed: ToolFailed: no file'),
        ),
        (
            event(
                "task.timed_out", duration_ms=120_000, error={"type": "DeadlineExceeded", "message": "late"}
            ),
            Line("timed out", "120.00 s  $0  DeadlineExceeded: late"),
        ),
        (
            event("tool.called", tool="delegate", arguments="{}", ok=True, result="Yes.", duration_ms=None),
            Line("tool", "delegate  -> Yes."),
        ),
        (
            event("tool.overran", tool="nap", seconds=1.5, ended=False),
            Line("tool", "nap was given up, and its thread still runs, after 1.5 s"),
        ),
        (event("task.succeeded", duration_ms=10, cost_usd=None), Line("succeeded", "0.01 s  $?")),
        (event("model.delta", text="The next\nwords.", n=2), Line("model", "The next words.")),
        (event("model.delta", restart=True), Line("model", "starts over")),
        (
            event("structure.invalid", shape="Recipe", error="title: Field required", raw="{}"),
            Line("model", "does not fit Recipe: title: Field required"),
        ),
        (event("trace.spans", spans=[]), None),
    ],
)
def test_an_event_is_one_line(given: dict[str, Any], line: Line | None) -> None:
    assert timeline_line(given) == line


def test_a_wait_for_a_provider_says_why_and_when_it_is_tried_again() -> None:
    asked = "The server is overloaded"
    waits = event("task.waiting", kind="provider", asked=asked, due_at="2030-01-01T12:10:00+00:00")
    line = timeline_line(waits | {"time": "2030-01-01T12:00:00Z"})
    assert line == Line("waiting", "for provider, next try 10 min later  The server is overloaded")


def test_a_line_cannot_steer_the_terminal() -> None:
    told = timeline_line(
        event("tool.called", tool="read_file", arguments={"path": "\x1b[2J\x07evil\x9b"}, ok=True)
    )
    assert told is not None and told.text.isprintable()
    assert len(timeline_line(event("tool.called", tool="t", arguments={"q": "x" * 9000})).text) < 300  # type: ignore[union-attr]


class ScriptedMesh:
    """Gives the followers of a task the events that it was told, up to its outcome."""

    def __init__(self, *events: dict[str, Any]) -> None:
        self._events = [Event(id="a/1", topic="t", **one) for one in events]

    async def follow(self, task_id: str, *, after_seq: int = 0) -> AsyncIterator[Event]:
        for one in self._events:
            if one.task_id == task_id:
                yield one
                if one.event_type in ENDINGS:
                    return
        await anyio.sleep_forever()


async def test_a_delegated_task_is_drawn_in_its_place_and_further_in() -> None:
    mesh = ScriptedMesh(
        event("task.accepted", "parent"),
        event("task.waiting", "parent", key="call_1", child_task_id="child"),
        event("task.resumed", "parent"),
        event("task.succeeded", "parent"),
        event("task.accepted", "child"),
        event("task.succeeded", "child"),
    )
    seen = [(depth, one["task_id"], one["event_type"]) async for depth, one in timeline(mesh, "parent")]  # type: ignore[arg-type]
    assert seen == [
        (0, "parent", "task.accepted"),
        (0, "parent", "task.waiting"),
        (1, "child", "task.accepted"),
        (1, "child", "task.succeeded"),
        (0, "parent", "task.resumed"),
        (0, "parent", "task.succeeded"),
    ]


async def test_a_parent_that_ends_is_not_kept_waiting_by_its_child(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("meshwright.console.timeline.MAX_LAG_SECONDS", 0.05)
    mesh = ScriptedMesh(
        event("task.waiting", "parent", child_task_id="child"),
        event("task.accepted", "child"),
        event("task.cancelled", "parent"),
    )
    with anyio.fail_after(60):
        seen = [one["event_type"] async for _, one in timeline(mesh, "parent")]  # type: ignore[arg-type]
    assert seen == ["task.waiting", "task.accepted", "task.cancelled"]


class Canvas(Drawing):
    """Keeps what is drawn."""

    def __init__(self) -> None:
        super().__init__()
        self.drawn: list[Any] = []

    def line(self, depth: int, line: Line) -> None:
        self.drawn.append(line.word)

    def words(self, text: str, *, restart: bool, depth: int = 0) -> None:
        self.drawn.append((text, restart))


async def test_a_models_words_are_shown_and_are_no_lines() -> None:
    mesh = ScriptedMesh(
        event("task.accepted", "parent"),
        event("model.delta", "parent", text="The begin", n=1),
        event("model.delta", "parent", text="ning.", n=2),
        event("model.delta", "parent", restart=True),
        event("model.delta", "parent", text="Again.", n=1),
        event("task.succeeded", "parent", success=True),
    )
    canvas = Canvas()
    outcome = await draw(mesh, "parent", canvas)  # type: ignore[arg-type]
    said = [("The begin", True), ("ning.", False), ("", True), ("Again.", True)]
    assert canvas.drawn == ["accepted", *said, "succeeded"]
    assert outcome["success"]


@pytest.mark.parametrize(
    ("result", "printed"),
    [
        ({"text": "Yes."}, "Yes.\n"),
        ({"text": ""}, ""),
        (None, ""),
        ({"title": "Süß", "steps": []}, '{\n  "title": "Süß",\n  "steps": []\n}\n'),
    ],
)
def test_an_answer_without_words_is_printed_as_json(
    result: Any, printed: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert print_answer({"success": True, "status": "succeeded", "result": result}, as_json=False) == 0
    assert capsys.readouterr().out == printed


@pytest.mark.parametrize(
    ("status", "kind", "message", "said"),
    [
        ("failed", "KeyError", "'k' (actors/a.py:12)", "failed: KeyError: 'k' (actors/a.py:12)"),
        ("failed", "KeyError", "KeyError: 'k'", "failed: KeyError: 'k'"),
        ("failed", "ValueError", "", "failed: ValueError"),
        ("failed", "ModelRefused", "No such model", "failed: No such model"),
        ("cancelled", "Cancelled", "cancelled on request", "was cancelled: cancelled on request"),
        ("timed_out", "Timeout", "no answer within 5 seconds", "timed out: no answer within 5 seconds"),
    ],
)
def test_why_a_task_did_not_succeed_is_one_line(
    status: str, kind: str, message: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    outcome = {"success": False, "status": status, "error": {"type": kind, "message": message}}
    assert print_answer(outcome, as_json=False) == 1
    assert capsys.readouterr().err == f"mesh: the task {said}\n"


def test_without_a_terminal_the_drawing_is_plain_text() -> None:
    stream = io.StringIO()
    with drawing(stream=stream) as canvas:
        canvas.line(0, Line("accepted", "a"))
        canvas.words("not before it is whole", restart=True)
        canvas.line(1, Line("tool", "b"))
    assert stream.getvalue() == "  accepted    a\n    tool        b\n"


class Terminal(io.StringIO):
    """A stream that is a terminal."""

    def isatty(self) -> bool:
        return True


def test_in_a_terminal_the_columns_are_the_same_and_long_lines_go_on_in_theirs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    with drawing(stream=stream) as canvas:
        canvas.line(1, Line("tool", "one two three four five six seven"))
    shown = re.sub(r"\r|\x1b\[[0-9;?]*[A-Za-z]", "", stream.getvalue())
    assert shown.startswith("    tool        one two three four five\n                six seven")
    assert "\x1b[33m" in stream.getvalue()


def test_in_a_terminal_the_end_of_a_models_words_runs_beside_the_spinner(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "25")
    stream = Terminal()
    with drawing(stream=stream) as canvas:
        canvas.words("zero one two ", restart=True)
        canvas.words("three\n[red]\x1b[2J", restart=False)
        while "three" not in stream.getvalue():
            time.sleep(0.01)
        assert "two three [red]\\u001b[2J"[-21:] + "\x1b[?7h" in stream.getvalue()
        canvas.line(0, Line("model", "done"))
        with canvas.paused():
            drawn = stream.getvalue()
            time.sleep(0.3)
            assert stream.getvalue() == drawn and drawn.endswith("\r\x1b[K")
    assert "three" not in stream.getvalue().rpartition("done")[2]


@pytest.mark.parametrize("stream", [io.StringIO(), Terminal()])
def test_a_line_that_comes_during_a_question_is_drawn_after_it(stream: io.StringIO) -> None:
    with drawing(stream=stream) as canvas:
        with canvas.paused():
            canvas.line(0, Line("progress", "step 1"))
            assert "step 1" not in stream.getvalue()
        assert "step 1\n" in stream.getvalue()


async def test_the_spinner_says_what_happens_and_for_how_long() -> None:
    stream, shown = Terminal(), "running read_file 0 s"
    mesh = ScriptedMesh(
        event("task.accepted", "parent"), event("model.called", "parent", tool_calls=["read_file"])
    )
    with drawing(stream=stream) as canvas, anyio.fail_after(60):
        async with anyio.create_task_group() as group:
            group.start_soon(draw, mesh, "parent", canvas)
            while shown not in stream.getvalue():
                await anyio.lowlevel.checkpoint()
            group.cancel_scope.cancel()


def test_a_deployment_that_is_left_alone_for_an_hour_is_said_in_words() -> None:
    known = {"deployment": "default #cheap", "seconds": 7_200.4, "reason": "quota"}
    line = timeline_line({"event_type": "deployment.cooled_down", "payload": known})
    assert line is not None and line.text == "default #cheap is down, left alone for 2 h: quota"
