"""The records, events and spans of tool calls are as written down, whatever the call meets.

Each case below is a call with its surroundings. Its records are those of the journal.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import tempfile
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar

import pytest

from meshwright import Agent, Capability, File, Run, TaskRequest, ToolContext, ToolFailed, tool
from meshwright.core.tracing import Tracing
from meshwright.engine.kernel.envelope import ActorRef
from meshwright.engine.work.earlier_records import step_streams
from meshwright.engine.work.protocol import steps_stream
from meshwright.mesh.mesh import Mesh
from meshwright.mesh.orchestration.tasks import Tasks
from meshwright.testing import MeshUnderTest, ScriptedModel, tool_call
from meshwright.testing.mesh import Reply
from tests.support.interrupted_mesh import kept

FILE = Path(__file__).parents[2] / "support" / "tool_calls.txt"
KEY = "sk-live0123456789abcdefABCDEF"
CONFIG = "name = 'app'\npassword = 'hunter\"2222'\n"
LONG = [f"line {number} of a long log" for number in range(2_000)]
EVENTS = ("tool.", "calls.", "approval.", "task.waiting", "limit.", "file.")


class Clerk(Agent):
    """Has a tool for each case."""

    agent_id = "clerk"
    capabilities = (Capability("clerking"),)
    delegates_to = ("writer",)
    remembers = False
    prompt_text = "You are a clerk."
    folder: ClassVar[Path]
    began: ClassVar[asyncio.Event]
    opened: ClassVar[asyncio.Event]
    plans: ClassVar[list[str]]

    @tool(idempotent=True, effect="read")
    async def look(self, place: str, page: int = 1) -> dict[str, Any]:
        """Look somewhere."""
        return {"place": place, "pages": [1, 2, page]}

    @tool
    async def pay(self, amount: int, password: str = "") -> str:
        """Pay an amount."""
        return f"paid {amount}"

    @tool
    async def fail(self, how: str) -> str:
        """Fail."""
        if how == "told":
            raise ToolFailed(f"the server refuses {KEY}", remedy="Ask for another key")
        raise ValueError(f"{how} {KEY}")

    @tool(needs_approval=True)
    async def deploy(self, place: str, password: str = "") -> str:
        """Deploy something."""
        return f"deployed to {place}"

    @tool(needs_approval=True, idempotent=True, preview="_plan")
    async def scale(self, replicas: int) -> str:
        """Scale something."""
        return f"scaled to {replicas}"

    async def _plan(self, replicas: int) -> str:
        return f"- 1\n+ {replicas}\ntoken = '{KEY}'"

    @tool(effect="read", origin="outside")
    async def fetch(self, url: str) -> str:
        """Fetch a page."""
        if url == "gone":
            raise ToolFailed("the page is gone")
        return f"the page of {url}"

    @tool(idempotent=True, effect="read", origin="workspace")
    async def read(self, path: str) -> str:
        """Read a file."""
        return (self.folder / path).read_text()

    @tool(idempotent=True, effect="change", origin="workspace", contained=True)
    async def edit(self, path: str, old: str, new: str) -> str:
        """Replace a text."""
        text = (self.folder / path).read_text().replace(old, new)
        (self.folder / path).write_text(text)
        return text

    @tool(effect="read")
    async def call_service(self, fails: bool, context: ToolContext) -> str:
        """Call a service with a secret of the mesh."""
        token = context.secret("SERVICE_TOKEN")
        if fails:
            raise ToolFailed(f"the service refuses {token}")
        return f"the service greets {token}"

    @tool(idempotent=True)
    async def paint(self) -> Any:
        """Paint a picture."""
        return ["The picture:", File(name="picture.png", data=b"\x89PNG")]

    @tool(effect="read")
    async def log(self) -> list[str]:
        """Show the log."""
        return LONG

    @tool(timeout=0.01)
    async def nap(self) -> str:
        """Sleep."""
        await asyncio.sleep(60)
        return "slept"

    @tool(exclusive=True)
    async def alone(self) -> str:
        """Run alone."""
        return "ran alone"

    @tool(idempotent=True)
    async def hold(self) -> str:
        """Wait for the test."""
        self.began.set()
        await self.opened.wait()
        return "held"

    @tool
    async def hold_once(self) -> str:
        """Wait for the test, once."""
        self.began.set()
        await self.opened.wait()
        return "held once"

    @tool(idempotent=True)
    async def hold_and_fail(self) -> str:
        """Wait for the test, and fail."""
        await self.hold()
        raise ToolFailed("it can't be held")

    @tool(idempotent=True)
    async def paint_large(self) -> File:
        """Paint a picture that no record can hold."""
        return File(name="large.png", data=bytes(800_000))

    @tool(needs_approval=True, preview="_next_plan")
    async def drift(self) -> str:
        """Do something that has another effect each time."""
        return "drifted"

    async def _next_plan(self) -> str:
        self.plans.append("plan")
        return f"plan {len(self.plans)}"

    @tool(idempotent=True)
    async def consult(self, context: ToolContext) -> str:
        """Ask a person."""
        return await context.ask_person("What is it called?")


class Coder(Clerk):
    """Calls tools in its code."""

    agent_id = "coder"
    capabilities = (Capability("coding"),)

    async def run(self, run: Run) -> str:
        place = await run.call("look", place="here")
        try:
            return await run.call("fail", how="told")
        except ToolFailed as error:
            return f"{place['place']}: {error}"


class Writer(Agent):
    """Writes for others."""

    agent_id = "writer"
    capabilities = (Capability("writing"),)
    remembers = False
    prompt_text = "You are a writer."


class Case:
    """A task of an agent with scripted replies, through stops of the mesh, and all that it writes."""

    def __init__(self, folder: Path, agent_id: str = "clerk", **settings: Any) -> None:
        self.folder, self.agent_id, self.settings = folder, agent_id, settings
        self.model = ScriptedModel()
        self.task_id = ""
        self.lines: list[str] = []
        self._events: list[Any] = []
        self._spans: list[Mapping[str, Any]] = []

    @asynccontextmanager
    async def mesh(self, *replies: Reply) -> Any:
        """The mesh, until it stops where it is; its task begins at the first start."""
        self.model = ScriptedModel(*replies)
        async with kept(
            self.folder, Clerk, Coder, Writer, model=self.model, tracing={"content": True}, **self.settings
        ) as mesh:
            mesh.runtime.listen("#", self._events.append)
            if isinstance(mesh.tracing, Tracing):
                mesh.tracing.publish_to(self._take_spans)
            if not self.task_id:
                request = TaskRequest(agent_id=self.agent_id, payload={"text": "Do it."})
                self.task_id = (await mesh.get(Tasks).submit(request)).task_id
            yield mesh

    async def ended(self, mesh: Mesh) -> None:
        """Wait for the outcome, and keep what the task wrote."""
        outcome = await mesh.get(Tasks).outcome(self.task_id)
        ref = ActorRef(self.agent_id, f"default:{self.task_id}")
        streams = dict.fromkeys(await step_streams(mesh.runtime, ref, steps_stream(self.task_id, 1, 1)))
        for stream in streams:
            for record in await mesh.runtime.records(ref, stream):
                self._add(f"record {stream.rpartition(self.task_id)[2]}", _of_record(record.value))
        for event in self._events:
            if event.task_id == self.task_id and event.event_type.startswith(EVENTS):
                self._add(event.event_type, event.payload)
        for request in self.model.requests[-1:]:
            for message in request.messages:
                if message.role == "tool":
                    self._add("model reads", [message.content, message.parts])
        await mesh.tracing.flush()
        for span in self._spans:
            attributes = {name: value for name, value in span["attributes"].items() if name in _ATTRIBUTES}
            self._add("span", {"name": span["name"], "status": span["status"], **attributes})
        self._add("outcome", {"status": outcome.status, "outside": outcome.outside, "text": outcome.text})

    def _take_spans(self, trace_id: str, spans: Sequence[Mapping[str, Any]]) -> None:
        self._spans += [span for span in spans if span["name"].startswith("execute_tool")]

    def _add(self, name: str, value: Any) -> None:
        self.lines.append(f"{name} {self._plain(value)}")

    def _plain(self, value: Any) -> str:
        text = json.dumps(_without_chance(value), default=str, ensure_ascii=False)
        text = re.sub(r"\.py:\d+\)", ".py:N)", text.replace(self.task_id, "TASK"))
        return re.sub(r"\b[0-9A-HJKMNP-TV-Z]{26}\b|\b[0-9a-f]{32}\b|[0-9a-f-]{36}", "ID", text)


_ATTRIBUTES = ("error.type", "gen_ai.tool.call.arguments", "gen_ai.tool.call.result", "meshwright.unwound_by")
_MAX_CHARS = 240  # of a text
_CHANCE = {
    "started_at",
    "began_at",
    "ended_at",
    "since",
    "due_at",
    "expires_at",
    "answered_at",
    "time",
    "duration_ms",
}
_CHANCE |= {
    "seconds",
    "latency_ms",
    "completed_at",
    "decided_at",
    "prompt",
    "binds",
    "sealed",
    "cut",
    "sent",
    "totals",
}


def _without_chance(value: Any) -> Any:
    """The value with a mark in place of each time, duration and digest."""
    if isinstance(value, dict):
        return {
            name: "*" if name in _CHANCE and field is not None else _without_chance(field)
            for name, field in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [_without_chance(item) for item in value]
    if isinstance(value, str) and len(value) > _MAX_CHARS:
        return f"{value[:_MAX_CHARS]} and {len(value) - _MAX_CHARS} more"
    return value


def _of_record(value: dict[str, Any]) -> dict[str, Any]:
    kind = value.get("kind", "")
    if kind in ("context", "model"):  # what a call of a tool writes is in others
        return {"kind": kind}
    return value


Play = Callable[[Case], Awaitable[None]]
CASES: dict[str, Play] = {}


def calls(name: str, *replies: Reply, agent_id: str = "clerk", **settings: Any) -> None:
    """A case without people and stops."""

    async def play(case: Case) -> None:
        case.agent_id, case.settings = agent_id, settings
        async with case.mesh(*replies) as mesh:
            await case.ended(mesh)

    CASES[name] = play


def asks(name: str, *replies: Reply, answers: list[Any], stops: bool = False, **settings: Any) -> None:
    """A case whose questions a person answers, with or without a stop of the mesh before each answer."""

    async def play(case: Case) -> None:
        case.settings = settings
        open_replies = [*replies]
        answered: set[str] = set()
        for value in answers:
            async with case.mesh(*open_replies) as mesh:
                question = await _question(case, mesh, answered)
                open_replies = [*replies][len(replies) - case.model.unsaid :]
                if not stops:
                    await _answer(case, mesh, question, value, answered)
                    for later in answers[1:]:
                        await _answer(case, mesh, await _question(case, mesh, answered), later, answered)
                    await case.ended(mesh)
                    return
            async with case.mesh(*open_replies) as mesh:
                await _answer(case, mesh, await _question(case, mesh, answered), value, answered)
                if value is answers[-1]:
                    await case.ended(mesh)

    CASES[name] = play


async def _question(case: Case, mesh: Mesh, answered: set[str]) -> Any:
    while True:
        waits = (await mesh.get(Tasks).task(case.task_id)).waits
        if open_waits := [wait for wait in waits if wait.wait_id not in answered]:
            case._add("question", {"reason": open_waits[0].reason, "subject": open_waits[0].subject})
            return open_waits[0]
        await asyncio.sleep(0.01)


async def _answer(case: Case, mesh: Mesh, question: Any, value: Any, answered: set[str]) -> None:
    under_test = MeshUnderTest(mesh, case.model, None)
    answered.add(question.wait_id)
    await under_test.answer(case.task_id, value, key=question.wait_id, by="ann")


def stops(name: str, holding: str, *later: Reply, answers: Any = None) -> None:
    """A case whose mesh stops while a tool is held, after another call that has ended."""

    async def play(case: Case) -> None:
        async with case.mesh(tool_call("read", path="app.cfg"), tool_call(holding)):
            await Clerk.began.wait()
        Clerk.opened.set()
        async with case.mesh(*later) as mesh:
            if answers is not None:
                await _answer(case, mesh, await _question(case, mesh, set()), answers, set())
            await case.ended(mesh)

    CASES[name] = play


_LOOK, _PAY, _DEPLOY = (
    tool_call("look", place="here"),
    tool_call("pay", amount=3, password="hunter2222"),
    tool_call("deploy", place="prod", password="hunter2222"),
)
_ONCE = {"rules": [{"tool": "deploy", "ask": "once"}]}
_SCALE = tool_call("scale", replicas=3)
calls("idempotent", _LOOK, "Done.")
calls("plain", _PAY, "Done.")
calls("errors", tool_call("fail", how="told"), tool_call("fail", how="broken"), "Done.")
calls("wrong arguments", tool_call("pay", amount="much"), tool_call("nothing", a=1), "Done.")
calls("outside", tool_call("fetch", url="here"), tool_call("look", place="there"), "Done.")
calls("outside, failed", tool_call("fetch", url="gone"), tool_call("look", place="there"), "Done.")
calls(
    "masks",
    tool_call("read", path="app.cfg"),
    tool_call("edit", path="app.cfg", old="password = '[secret:1]'", new="PASSWORD = '[secret:1]'"),
    tool_call("look", place="[secret:1]"),
    "Done.",
)
calls("secrets", tool_call("call_service", fails=False), tool_call("call_service", fails=True), _PAY, "Done.")
calls("files", tool_call("paint"), "Done.")
calls("long", tool_call("log"), tool_call("output", id="o3", start=100), "Done.")
calls("timeout", tool_call("nap"), "Done.")
calls(
    "parallel", [_LOOK, tool_call("pay", amount=1), tool_call("alone"), tool_call("fetch", url="a")], "Done."
)
calls("too many", [_LOOK] * 3, "Done.", agents={"max_calls_per_reply": 2})
calls("repeated", *[tool_call("fail", how="told")] * 3, "Done.", agents={"max_repeats": 3})
calls("too large", tool_call("paint_large"), "Done.", max_record_bytes=1024 * 1024)
calls("delegating", tool_call("delegate", agent_id="writer", text="Write."), "Written.", "Done.")
calls("in code", agent_id="coder")
asks("approved", _DEPLOY, "Done.", answers=[{"approve": True}])
asks("approved after a stop", _DEPLOY, "Done.", answers=[{"approve": True}], stops=True)
asks("denied", _DEPLOY, "Done.", answers=[{"approve": False, "reason": "not today"}])
asks(
    "changed by a person",
    _DEPLOY,
    "Done.",
    answers=[{"approve": True, "arguments": {"place": "test", "password": "hunter3333"}}],
)
asks("approved once", _DEPLOY, _DEPLOY, "Done.", answers=[{"approve": True}], approvals=_ONCE)
asks("previewed", _SCALE, "Done.", answers=[{"approve": True}])
asks("another effect", tool_call("drift"), "Done.", answers=[{"approve": True}])
asks("after outside", tool_call("fetch", url="here"), _PAY, "Done.", answers=[{"approve": True}])
asks("consulting", tool_call("consult"), "Done.", answers=["Ada"])
stops("stopped in an idempotent call", "hold", "Done.")
stops("stopped in an idempotent call that fails", "hold_and_fail", "Done.")
stops(
    "masks after a stop",
    "hold",
    tool_call("edit", path="app.cfg", old="[secret:1]", new="no secret"),
    "Done.",
)
stops("stopped in a call", "hold_once", "Done.", answers={"approve": True})
stops(
    "stopped in a call that is not repeated",
    "hold_once",
    "Done.",
    answers={"approve": False, "result": "it was held"},
)


async def lines_of(name: str, folder: Path) -> str:
    """All that a case writes, below its name."""
    Clerk.folder, Clerk.began, Clerk.opened = folder, asyncio.Event(), asyncio.Event()
    Clerk.plans = list[str]()
    (folder / "app.cfg").write_text(CONFIG)
    case = Case(folder)
    await CASES[name](case)
    return "\n".join([f"# {name}", *case.lines, ""])


def cases_of(text: str) -> dict[str, str]:
    parts = re.split(r"^(?=# )", text, flags=re.MULTILINE)
    return {part.partition("\n")[0][2:]: f"{part.rstrip()}\n" for part in parts if part}


@pytest.mark.parametrize("name", CASES)
async def test_a_call_writes_what_is_written_down(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SERVICE_TOKEN", "a plain word")
    text = await lines_of(name, tmp_path)
    assert "plain word" not in text
    assert text == cases_of(FILE.read_text())[name], (
        "if it shall change: python -m tests.agents.unit.test_tool_call_records"
    )


if __name__ == "__main__":
    os.environ["SERVICE_TOKEN"] = "a plain word"
    texts = [asyncio.run(lines_of(name, Path(tempfile.mkdtemp()))) for name in CASES]
    FILE.write_text("\n".join(texts))
