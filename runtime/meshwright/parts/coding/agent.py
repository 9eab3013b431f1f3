"""CodingAgent: an agent of the mesh whose work a coding agent does, in the box of a leased tree."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import AsyncExitStack
from typing import Any, ClassVar

from meshwright import Agent, Approval, Run, ToolFailed
from meshwright.agents.trees.tree import Tree
from meshwright.kit import ConfigError, new_id
from meshwright.parts.coding.errors import (
    CodingAgentFailed,
    CodingAgentGone,
    NothingDelivered,
    SessionLost,
    TestsBroken,
)
from meshwright.parts.coding.event_types import SessionBegun, TurnEnded
from meshwright.parts.coding.session import CodingSession, CodingWork, coding_session
from meshwright.parts.coding.settings import CodingProgram
from meshwright.toolsets.code import ProposingTools

_MAX_FAILURES = 1  # sessions in a row whose program ends in the middle
_MAX_SESSIONS = 5_000  # of a task: each answer to a permission takes one, each look for money or a provider
_MAX_TITLE_CHARS, _MAX_TEXT_CHARS, _MAX_LISTED = 72, 4_000, 30
_RULES = """You work in this folder, a copy of a repository that is yours alone. You are in a box: there
is no network but the model's, and nothing outside of this folder can be changed. Change the least that does
it, and run the tests. Do not commit: the change is taken from the folder, its tests are run again, and a
person decides."""


class CodingAgent(Agent, abstract=True):
    """An agent whose work is done by Codex, Claude Code, or another coding agent: see docs/coding-agents.md.

    The result has the text of the coding agent, the `changed` files, and the tests that are `failing` as
    they were before. The task fails with NothingDelivered where nothing was changed, TestsBroken where tests
    fail that passed before, CodingAgentFailed where the coding agent cannot do its part.
    """

    coder: ClassVar[str] = ""
    """The table of [coding] that says which. Default: the one of the agent's id, or the only one."""
    toolsets = (ProposingTools,)
    programs: Mapping[str, CodingProgram] = {}
    """The tables of [coding]; the part sets them."""

    async def run(self, run: Run) -> dict[str, Any]:
        """Have the task done, tested, and proposed where it is not part of another task."""
        name = self.table_name()
        return await _Job(run, await run.tree(), name, self.programs[name]).deliver()

    def table_name(self) -> str:
        """The name of its table of [coding]. Raises ConfigError where that is not there."""
        tables = self.programs
        name = self.coder or (self.agent_id if self.agent_id in tables else next(iter(tables), ""))
        if name not in tables or (not self.coder and name != self.agent_id and len(tables) > 1):
            lack = f"there is no table [coding.{self.coder or self.agent_id}]"
            remedy = f"Write it in mesh.toml, or name one as coder: {', '.join(tables) or 'there is none'}"
            raise ConfigError(f"{self.agent_id} has no coding agent: {lack}", remedy=remedy, field="coder")
        return name


class _Job:
    """The work on one task, in turns of a coding agent.

    A claim of the run begins a session of its own, and marks it: one that a former claim has begun was cut
    off, unless its turn is in the journal. The next one takes it up where the agent can.
    """

    def __init__(self, run: Run, tree: Tree, name: str, settings: CodingProgram) -> None:
        self._run, self._tree, self._name, self._settings = run, tree, name, settings
        self._claim = new_id()
        self._decisions: dict[str, asyncio.Future[Approval]] = {}
        self._denied: list[str] = []
        self._session_id = ""
        self._sessions = 0
        self._failures = 0
        self._is_lost = False
        """Whether an earlier session was lost that the next one does not know of."""

    async def deliver(self) -> dict[str, Any]:
        failing = await self._failing_tests()
        request = text = f"{_RULES}\n\n{_request(self._run)}"
        broken = set[str]()
        for _ in range(self._settings.max_turns):
            answer = await self._turn(text)
            changed = await self._changed(answer)
            now = await self._failing_tests()
            if not (broken := now - failing):
                return await self._proposed({"text": answer, "changed": changed, "failing": sorted(now)})
            text = (
                f"{request}\n\nTests that passed before your change fail now. Repair it.\n{_listed(broken)}"
            )
        raise TestsBroken(
            f"{self._name} left tests that passed before its change: {_listed(broken)}",
            remedy=f"mesh trees diff {self._tree.tree_id} shows the change",
        )

    async def _turn(self, text: str) -> str:
        """The answer of the agent to a request, through as many sessions as it takes."""
        while True:
            ending = await self._session(text)
            if ending is None:
                continue
            if "failed" not in ending:
                self._run.end_life()
                self._failures, self._denied = 0, ending.get("denied", [])
                return _answer(self._name, ending)
            self._failures += 1
            if ending.get("lost"):
                self._session_id, self._is_lost = "", True
            if self._failures > _MAX_FAILURES:
                raise CodingAgentFailed(ending["failed"], remedy="mesh doctor tries the coding agents")

    async def _session(self, text: str) -> dict[str, Any] | None:
        """How a session ended; None for one that a former claim began, and that was cut off."""
        run, earlier = self._run, self._session_id
        self._sessions += 1
        if self._sessions > _MAX_SESSIONS:
            raise CodingAgentFailed(f"{self._name} did not end its work in {_MAX_SESSIONS:,} sessions")
        work = CodingWork(run, self._tree, self._name, self._settings, self._sessions, self._decisions, {})
        beginning = await run.note("coding begin", {"claim": self._claim})
        async with AsyncExitStack() as stack:
            live = opened = ending = None
            if beginning["claim"] == self._claim:
                try:
                    live = await stack.enter_async_context(coding_session(work, earlier))
                    opened = (await live.open(text, is_lost=self._is_lost))._asdict()
                except CodingAgentGone as error:
                    ending = {"failed": str(error), "lost": isinstance(error, SessionLost)}
            opened = await run.note("coding session", opened, self._begun(opened))
            if opened is not None:
                self._session_id, self._is_lost = opened["id"], False
                if live is not None:
                    ending = await _ended(live, work.denied)
        return await run.note("coding turn", ending, _read_turn(ending))

    def _begun(self, opened: dict[str, Any] | None) -> SessionBegun | None:
        if opened is None:
            return None
        program, session_id = self._settings.program, opened["id"]
        return SessionBegun(program=program, agent=opened["agent"], how=opened["how"], session_id=session_id)

    async def _changed(self, answer: str) -> list[str]:
        """The files that differ by now. Raises NothingDelivered where none does."""

        async def look() -> list[str]:
            return [f"{change.status} {change.path}" for change in await self._tree.changed()]

        changed = await self._run.step("coding changed", look)
        if not changed:
            denied = f". It was denied: {'; '.join(self._denied)[:500]}" if self._denied else ""
            raise NothingDelivered(
                f"{self._name} changed nothing, and says: {answer[:500].rstrip('. ') or 'nothing'}{denied}",
                remedy="Say in the task which change is needed",
            )
        return changed

    async def _failing_tests(self) -> set[str]:
        """The tests that fail now; none where they cannot be run."""
        try:
            result = await self._run.call("run_tests")
        except ToolFailed:
            return set()
        if not isinstance(result, dict) or result["passed"]:
            return set()
        return {failure["name"] for failure in result["failed"]} or {f"status {result['status']}"}

    async def _proposed(self, result: dict[str, Any]) -> dict[str, Any]:
        """The result, with the commit that a person approved; who delegates proposes by itself."""
        if self._run.task.parent is not None:
            return result
        title = self._run.task.text.strip().partition("\n")[0]
        title = title if len(title) <= _MAX_TITLE_CHARS else f"{title[: _MAX_TITLE_CHARS - 3]}..."
        try:
            commit = await self._run.call(
                "propose", title=title or "Change what was asked", body=result["text"][:_MAX_TEXT_CHARS]
            )
        except ToolFailed as error:
            return {**result, "not_committed": str(error)}
        return {**result, **commit}


async def _ended(live: CodingSession, denied: Mapping[str, str]) -> dict[str, Any]:
    try:
        end = await live.ended()
    except CodingAgentGone as error:
        return {"failed": str(error)}
    titles = [f"{title} ({reason})" if reason else title for title, reason in denied.items()]
    ending = {"reason": end.reason, "text": end.text[: _MAX_TEXT_CHARS * 4], "refused": live.refused}
    return {**ending, "denied": titles, "late": end.is_late}


def _read_turn(ending: dict[str, Any] | None) -> TurnEnded | None:
    if ending is None:
        return None
    reason, words = ending.get("reason", "failed"), ending.get("failed") or ending["text"]
    return TurnEnded(reason=reason, text=words[:_MAX_TEXT_CHARS], refused=ending.get("refused", []))


def _answer(name: str, ending: dict[str, Any]) -> str:
    """The last words of a turn; one that ends as cancelled after a denial, as Codex does, has ended."""
    fault = ""
    if ending["reason"] == "refusal":
        fault = "refused the request"
    elif ending["reason"] == "cancelled" and ending.get("late", True):
        fault = "did not end in the time of its session: raise max_seconds of its table"
    elif ending["reason"] == "cancelled" and not ending["denied"]:
        fault = "cancelled its own turn"
    if fault:
        raise CodingAgentFailed(f"{name} {fault}. It says: {ending['text'][:500] or 'nothing'}")
    return ending["text"]


def _request(run: Run) -> str:
    context = run.task.sender_context
    constraints = () if context is None else context.constraints
    return "\n".join(["The request:", run.task.text, *constraints])


def _listed(names: set[str]) -> str:
    more = len(names) - _MAX_LISTED
    lines = [f"- {name}" for name in sorted(names)[:_MAX_LISTED]]
    return "\n".join([*lines, *([f"- and {more} more"] if more > 0 else [])])
