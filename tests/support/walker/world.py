"""The world outside of a mesh: what its tools do there, what its models answer and bill, and what it wants.

It outlives each process of the mesh, and knows nothing of how one works.
"""

from __future__ import annotations

import asyncio
import random
import re
from collections import Counter
from collections.abc import Callable, MutableMapping, Sequence
from concurrent.futures import Executor
from contextvars import copy_context
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from meshwright import CheckResult, ToolFailed
from tests.support.walker.asks import Asks
from tests.support.walker.programs import Program, Request

JOB = re.compile(r"\bjob (j\d+)\b")
_RECEIPT = re.compile(r"(\w+) (\w+) (\d+) #(\d+)")
PRICE = Decimal("0.001")


def job_in(text: str) -> str:
    """The job that a request names."""
    match = JOB.search(text)
    assert match is not None, f"no job is named in {text!r}"
    return match[1]


@dataclass
class Effect:
    """Something that a tool, or a step, did in the world."""

    number: int
    request: Request
    task_id: str
    key: str
    at_act: int
    incarnation: int
    told: bool = False
    """Whether its caller lived to read the receipt."""
    has_ended: bool = False
    """Whether its tool has the receipt."""
    is_lost: bool = False
    """Whether a session that has lost the receipt went on behind it."""

    @property
    def receipt(self) -> str:
        request = self.request
        return f"{request.tool} {request.account} {request.amount} #{self.number}"


def receipt_of(text: str) -> tuple[Request, int] | None:
    """The request and the number that a receipt names; None for any other text."""
    match = _RECEIPT.fullmatch(text)
    return None if match is None else (Request(match[1], match[2], int(match[3])), int(match[4]))


class Gate:
    """The points of one process at which it can be held, or ended: before and behind all that others see."""

    def __init__(self) -> None:
        self.points = 0
        self.is_frozen = False
        self.label = ""
        self._stop_at = 0
        self._is_kill = False
        self._effects_only = False
        self._reached: asyncio.Event | None = None
        self._release: asyncio.Event | None = None

    def stop_at(self, points: int, *, kill: bool, effects_only: bool) -> asyncio.Event:
        """Hold what comes to a point after so many others; the event is set then. A kill holds all."""
        self._stop_at, self._is_kill, self._effects_only = points, kill, effects_only
        self._reached, self._release = asyncio.Event(), asyncio.Event()
        return self._reached

    def release(self) -> None:
        if self._release is not None:
            self._release.set()
        self._reached = None

    async def point(self, label: str, *, effect: bool = False) -> None:
        if self._reached is not None and not self._reached.is_set() and (effect or not self._effects_only):
            self._stop_at -= 1
            if self._stop_at <= 0:
                self.label, release = label, self._release
                self.is_frozen = self._is_kill
                self._reached.set()
                assert release is not None
                if not self._is_kill:
                    await release.wait()
        if self.is_frozen:
            await asyncio.Event().wait()


@dataclass
class World:
    """All that the tools and models of a walk share."""

    program: Program
    seed: int | str
    gate: Gate = field(default_factory=Gate)
    effects: list[Effect] = field(default_factory=list)
    strange: list[str] = field(default_factory=list)
    """Results that belong to another request than the one that got them: a rule, and what was seen."""
    bill: Decimal = Decimal(0)
    calls: int = 0
    begun_calls: int = 0
    cut_calls: int = 0
    """Calls of models whose answer may not have been read: they were cut off, or a process ended then."""
    calls_beside: int = 0
    """Calls that were asked for as a process ended, beyond one of each task: they may have been begun."""
    charges: Decimal = Decimal(0)
    charge_calls: int = 0
    provider: str = "up"
    pace: float = 1.0
    """Seconds that a second of a program takes."""
    lies: bool = False
    """Whether the provider reports how many tokens it used as no provider could."""
    checks: bool = False
    """Whether somebody who was cut off can look what has happened, but for one look in twenty."""
    act: int = 0
    incarnation: int = 0
    changed: set[Request] = field(default_factory=set)
    """The requests that people put in the place of others."""
    asks: Asks = field(default_factory=Asks)
    threads: Executor | None = None
    """Where sync code runs; None for threads as asyncio makes them."""
    _sessions: dict[str, dict[str, Any]] = field(default_factory=dict)
    _executions: Counter[tuple[str, Request]] = field(default_factory=Counter)
    _looks: Counter[str] = field(default_factory=Counter)

    async def do(self, request: Request, task_id: str, key: str) -> str:
        """Do it, for a caller that says by which key it would ask again."""
        self._executions[task_id, request] += 1
        pause = random.Random(f"{self.seed} {task_id} {request} {self._executions[task_id, request]}")
        await asyncio.sleep(pause.choice((0, 0, 1, 2, 7)))
        await self.gate.point(f"before {request}", effect=True)
        self.asks.begin(task_id)
        effect = Effect(len(self.effects) + 1, request, task_id, key, self.act, self.incarnation)
        self.effects.append(effect)
        await asyncio.sleep(pause.choice((0, 0, 0, 3)))
        await self.gate.point(f"behind {request}", effect=True)
        effect.has_ended = True
        return effect.receipt

    def lose_answer(self, task_id: str, request: Request) -> None:
        """Note that a session which goes on asks again for a call whose answer it has not got.

        Its call names no model's id, so nobody can tell it from another, and it may take effect again.
        """
        for effect in self.effects:
            is_unread = effect.has_ended and not effect.told and not effect.is_lost
            if is_unread and (effect.task_id, effect.request) == (task_id, request):
                effect.is_lost = True
                return

    async def check(self, request: Request, key: str) -> CheckResult:
        """Look whether a request was done by a key. Raises ToolFailed where the world does not answer."""
        if not self.checks:
            return CheckResult.unknown("nobody can look")
        await self.gate.point(f"check {request}")
        return self.look(self.effects, key)

    def look(self, effects: Sequence[Effect], key: str) -> CheckResult:
        """The result of a look at effects."""
        self._looks[key] += 1
        if random.Random(f"{self.seed} look {key} {self._looks[key]}").random() < 1 / 20:
            raise ToolFailed("the world does not answer")
        receipts = [effect.receipt for effect in effects if effect.key == key]
        return CheckResult.happened(receipts[-1]) if receipts else CheckResult.did_not_happen()

    def read_result(self, request: Request, result: Any) -> None:
        """Look whether a result is that of its request."""
        last = result.rpartition("\n")[2] if isinstance(result, str) else ""  # behind who changed it
        receipt = receipt_of(last)
        if receipt is None:
            if not (isinstance(result, str) and ("not run" in result or "failed" in result)):
                self._note("result", f"{request} got {result!r}")
            return
        got, number = receipt
        effect = next((effect for effect in self.effects if effect.number == number), None)
        if effect is None or effect.request != got:
            self._note("result", f"{request} got {result!r}, which the world never gave")
            return
        effect.told = True
        if got != request and not (got in self.changed and got.tool == request.tool):
            self._note("result", f"{request} got {result!r}, that of another request")

    def ask(self, task_id: str, place: str, text: str) -> None:
        """Note that code which the mesh does not know asks a model, at a place of its own."""
        self.asks.ask(task_id, place, text)

    def hear(self, task_id: str, place: str, value: Any, known_by: str = "") -> None:
        """Note what such code got at a place; not after its process was killed."""
        if not self.gate.is_frozen:
            self.asks.hear(task_id, place, value, known_by=known_by)

    def read_reply(self, text: str, reply: str) -> str:
        """Look whether a reply is that to its request."""
        if not reply.endswith(f" to {text}"):
            self._note("reply", f"{text!r} got {reply!r}")
        return reply

    def session(self, session_id: str) -> MutableMapping[str, Any]:
        """What a program outside knows in a session: the results that it has heard, by their places."""
        return self._sessions.setdefault(session_id, {})

    async def in_thread(self, work: Callable[[], Any]) -> Any:
        """Do sync work in a thread."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self.threads, copy_context().run, work)

    def charged(self) -> None:
        """Note that a step has charged the price of a call."""
        self.charges += PRICE
        self.charge_calls += 1

    def read_child(self, job: str, result: Any) -> None:
        """Look whether the answer to a delegated job is that job's."""
        got = result.get("job") if isinstance(result, dict) else None
        if got != job:
            self._note("child", f"the delegation of {job} got the answer of {got or repr(result)[:80]}")

    def read_answer(self, question: str, answer: Any) -> None:
        if answer != f"answer to {question}":
            self._note("answer", f"the question {question} got {answer!r}")

    def _note(self, rule: str, text: str) -> None:
        self.strange.append(f"{rule}: {text}")
