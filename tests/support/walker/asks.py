"""What code that the mesh does not know asks of models and gets, and what the end of a process may lose."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any

SAY = "say "
"""The beginning of a request of such code to a model."""


@dataclass(eq=False)
class ModelCall:
    """A call that a provider has billed, or will have once it arrives there."""

    task_id: str
    text: str
    began_at: float
    ended_at: float | None = None
    may_repeat: bool = False
    """Whether a process ended, or a task, before its record was durable for sure."""


@dataclass
class Hearing:
    """A result that the code got at a place."""

    task_id: str
    place: str
    value: Any
    at: float
    may_change: bool = False
    """As `ModelCall.may_repeat`."""
    known_by: str = ""
    """The place whose result tells of it first: no record says that code waits no more."""


@dataclass
class Asks:
    """All of a walk. A result is durable for sure once something costly begins in its task later."""

    calls: list[ModelCall] = field(default_factory=list)
    hearings: list[Hearing] = field(default_factory=list)
    places: defaultdict[str, set[tuple[str, str]]] = field(default_factory=lambda: defaultdict(set))
    """The tasks and places in them where each text is asked."""
    settling_seconds: float = 0.0
    """How long something may take that takes no simulated time."""
    given_up: defaultdict[tuple[str, str], set[str]] = field(default_factory=lambda: defaultdict(set))
    """The places at which code gave up what it asked, by task and text."""
    _begun: dict[str, float] = field(default_factory=dict)
    _on_their_way: list[ModelCall] = field(default_factory=list)
    _open: dict[tuple[str, str], str] = field(default_factory=dict)
    """The texts that are asked and have no answer yet, by task and place."""
    _lost_at: float = -1.0
    """The time of the last loss of a lease: what its code gets then, before it knows, is not recorded."""
    _overtaken: Counter[tuple[str, str]] = field(default_factory=Counter)
    """How often a task may still ask a text for code whose work another process has by now."""

    def ask(self, task_id: str, place: str, text: str) -> None:
        """Note that code asks a model."""
        self.places[text].add((task_id, place))
        self._open[task_id, place] = text

    def end(self, task_id: str, place: str) -> None:
        """Note that what was asked at a place, and within it, has ended: what has no answer was given up."""
        within = [at for asker, at in self._open if asker == task_id and f"{at}.".startswith(f"{place}.")]
        for at in within:
            self.given_up[task_id, self._open.pop((task_id, at))].add(at)

    def never_arrived(self) -> int:
        """How many calls were given up before any provider had them: they may be in the ledger."""
        arrived = Counter((call.task_id, call.text) for call in (*self.calls, *self._on_their_way))
        return sum(max(0, len(places) - arrived[key]) for key, places in self.given_up.items())

    def send_call(self, task_id: str, text: str) -> ModelCall:
        """Note that a request is on its way to a provider: it may arrive after its process has ended."""
        self._on_their_way.append(call := ModelCall(task_id, text, time.time()))
        if self._overtaken[task_id, text] > 0:
            self._overtaken[task_id, text] -= 1
            call.may_repeat = True
        return call

    def begin_call(self, call: ModelCall) -> None:
        """Note that a provider has got a request, and bills it."""
        self.begin(call.task_id)
        self._on_their_way.remove(call)
        call.began_at = time.time()
        self.calls.append(call)

    def begin(self, task_id: str, at: float | None = None) -> None:
        """Note that a call of a model, or an effect, begins."""
        self._begun[task_id] = time.time() if at is None else at

    def asker(self, text: str) -> str:
        """The task that asks a text, where the request does not say it."""
        return max((task_id for task_id, _ in self.places[text]), default="")

    def hear(self, task_id: str, place: str, value: Any, at: float | None = None, known_by: str = "") -> None:
        """Note what code got."""
        self._open.pop((task_id, place), None)
        self.end(task_id, place)
        at = time.time() if at is None else at
        self.hearings.append(Hearing(task_id, place, value, at, at <= self._lost_at, known_by))

    def disturb(self, *, goes_on: bool = False) -> int:
        """Note that the process, or a task, ends where it is: what is not durable may be lost.

        One that `goes_on` has lost its lease: until it knows, it makes the calls that were asked for.
        Returns how many calls their code had asked for side by side, beyond the first of each task.
        """
        under_way = [*self._on_their_way, *(call for call in self.calls if call.ended_at is None)]
        # One that may be repeated was asked for before the last end, which no code waits for any more.
        waited_for = Counter((call.task_id, call.text) for call in under_way if not call.may_repeat)
        asked = Counter((task_id, text) for (task_id, _), text in self._open.items())
        unmade = asked - waited_for
        self._overtaken = unmade if goes_on else Counter()
        self._lost_at = time.time() if goes_on else self._lost_at
        for call in (*self.calls, *self._on_their_way):
            if call.ended_at is None or not self._is_durable(call.task_id, call.ended_at):
                call.may_repeat = True
        for hearing in self.hearings:
            if not self._is_durable(hearing.task_id, self._known_at(hearing)):
                hearing.may_change = True
        beside = len(self._open) - len({task_id for task_id, _ in self._open})
        self._open.clear()
        return beside

    def _known_at(self, hearing: Hearing) -> float:
        """When a record may first tell what the code got."""
        if not hearing.known_by:
            return hearing.at
        own = (it for it in self.hearings if (it.task_id, it.place) == (hearing.task_id, hearing.known_by))
        return min((it.at for it in own if it.at >= hearing.at), default=float("inf"))

    def _is_durable(self, task_id: str, at: float) -> bool:
        return self._begun.get(task_id, 0.0) > at + self.settling_seconds
