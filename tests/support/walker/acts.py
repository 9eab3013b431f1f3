"""The acts of a walk as data: what is done to the mesh, and when."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

_MAX_ACTS = 8
DURING = ("answer", "cancel", "retry", "fork")
"""The calls that may be under way as a process is killed."""
ANSWERS = ("yes", "yes", "yes", "no", "changed", "twice", "late", "stranger")


@dataclass(frozen=True)
class Moment:
    """When an act happens: once nothing runs, or can; after some seconds; or at a point that others see."""

    kind: str = "idle"
    count: float = 0.0

    def __str__(self) -> str:
        match self.kind:
            case "idle":
                return "when idle"
            case "quiet":
                return "once calls have ended"
            case "now":
                return "at once"
            case "seconds":
                return f"after {self.count:g} s"
            case "effects":
                return f"at call {self.count:g} of a tool or model"
            case _:
                return f"at point {self.count:g}"


@dataclass(frozen=True)
class Act:
    """One thing that is done. `pick`, from 0 to 1, says to which of those that it may be done to."""

    kind: str
    moment: Moment = Moment()
    pick: float = 0.0
    way: str = ""
    missing: tuple[str, ...] = ()

    def __str__(self) -> str:
        words = [self.kind, self.way, f"#{self.pick:.2f}" if self.kind in _PICKING else "", str(self.moment)]
        without = f"and start without {', '.join(self.missing)}" if self.missing else ""
        return " ".join(filter(None, [*words, without]))


_PICKING = {"answer", "cancel", "retry", "fork", "publish", "edit"}


def count_of_acts(seed: int | str) -> int:
    return random.Random(f"acts {seed}").randint(1, _MAX_ACTS)


@dataclass(frozen=True)
class Situation:
    """The facts by which an act is chosen: most would do nothing most of the time."""

    agents: tuple[str, ...]
    open_tasks: int
    questions: int
    failed: int
    ended: int
    missing: bool
    provider: str
    is_simulated: bool


def drawn_act(seed: int | str, number: int, now: Situation) -> Act:
    """The next act of a walk."""
    chance = random.Random(f"act {number} of {seed}")
    weights = {
        "kill": 20 if now.open_tasks else 5,
        "answer": 24 if now.questions else 2,
        "cancel": 9 if now.open_tasks else 0,
        "retry": 30 if now.failed else 0,
        "fork": 14 if now.ended else 0,
        "wait": 8,
        "end": 10 if now.open_tasks else 0,
        "edit": 3,
        "lease": 4 if now.open_tasks and now.is_simulated else 0,
        "publish": 2,
        "provider": 20 if now.provider != "up" else 3,
        "clock": 1 if now.is_simulated else 0,
        "submit": 2,
    }
    [kind] = chance.choices(list(weights), list(weights.values()))
    missing: tuple[str, ...] = ()
    if kind == "kill" and chance.random() < 0.25:
        missing = (chance.choice(now.agents),)
    return Act(kind, _moment(chance, kind), chance.random(), _way(chance, kind, now), missing)


def _way(chance: random.Random, kind: str, now: Situation) -> str:
    match kind:
        case "answer":
            return chance.choice(ANSWERS)
        case "retry":
            return chance.choice(("", "journal", "journal", "start"))
        case "provider":
            return "up" if now.provider != "up" else chance.choice(("down", "limited"))
        case "clock":
            return chance.choice(("-3600", "3600"))
        case "kill":
            return chance.choice(("", "", "", "edit", "stop", *DURING))
        case "edit":
            return str(chance.randrange(1000))
        case "wait":
            return chance.choice(("1", "10", "60", "60", "400"))
    return ""


def _moment(chance: random.Random, kind: str) -> Moment:
    if kind == "end":
        return Moment("now")
    is_sudden = kind in ("kill", "cancel", "edit", "lease")
    weights = (1, 2, 2, 1, 4 * is_sudden + 1, 3 * is_sudden)
    [moment] = chance.choices(("now", "idle", "quiet", "seconds", "effects", "points"), weights)
    match moment:
        case "quiet":
            return Moment("quiet")
        case "now":
            return Moment("now")
        case "seconds":
            return Moment("seconds", chance.choice((0.5, 1.5, 2.5, 5)))
        case "effects":
            return Moment("effects", chance.choice((1, 1, 2, 2, 3, 4, 5, 6, 8)))
        case "points":
            return Moment("points", chance.randint(1, 60))
    return Moment()


def picked(items: Sequence[Any], pick: float) -> Any:
    """The item that a number from 0 to 1 says."""
    return items[min(int(pick * len(items)), len(items) - 1)]
