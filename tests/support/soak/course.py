"""The course of a soak: how many tasks and faults of which kind, in which order, and what came of them.

`SOAK=1` has the sizes of `FULL`, and `SOAK_PERCENT` so many percent of them; without it they are `SMALL`.
"""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import cycle, islice

from meshwright.parts.proving.oracle import FINAL, REPEATED, Evidence, parse_outcome
from tests.run import SOAKING

ENDS = {"succeeded", "cancelled", "timed_out", "failed: BrokeOff", "failed: DelegationFailed"}
"""How tasks may end. One that ran when its process was killed three times is not tried again."""
PERCENT = float(os.environ.get("SOAK_PERCENT", "100"))
REPORT_SECONDS = 15.0


@dataclass(frozen=True)
class Size:
    """How much of each there is."""

    tasks: int
    kills: int
    others: int
    """Faults that kill nothing, or more than a process."""
    hours: float = 6.0
    """The bound in time."""


FULL = {"sqlite": Size(20_000, 500, 100), "postgres": Size(5_000, 200, 50), "dapr": Size(5_000, 200, 50)}
SMALL = {"sqlite": Size(200, 6, 0), "postgres": Size(80, 3, 2), "dapr": Size(48, 2, 1)}


def size_of(store: str) -> Size:
    """The size that the environment asks for."""
    if not SOAKING:
        return SMALL[store]
    full = FULL[store]
    tasks, kills, others = (
        max(1, round(count * PERCENT / 100)) for count in (full.tasks, full.kills, full.others)
    )
    return Size(tasks, kills, others, full.hours)


def deal(rng: random.Random, kinds: Sequence[str], count: int) -> list[str]:
    """So many faults, of each kind about the same number."""
    shuffled = rng.sample(kinds, len(kinds))
    return list(islice(cycle(shuffled), count)) if kinds else []


@dataclass
class Course:
    """One soak under way: counts faults, says how far it is, and ends it where it takes too long."""

    store: str
    seed: int
    size: Size
    say: Callable[[str], None]
    faults: Counter[str] = field(default_factory=Counter)
    kills: int = 0
    began: float = field(default_factory=time.monotonic)
    _said_at: float = 0.0

    def struck(self, kind: str, *, is_kill: bool, ended: int) -> None:
        """Count a fault, and say now and then how far it is. Fails beyond the bound in time."""
        self.faults[kind] += 1
        self.kills += is_kill
        assert self.seconds < self.size.hours * 3600, f"{ended} of {self.size.tasks} tasks in {self.took}"
        if time.monotonic() - self._said_at > REPORT_SECONDS:
            self._said_at = time.monotonic()
            others = self.faults.total() - self.kills
            self.say(
                f"soak {self.store}: {self.took}, {ended:,} of {self.size.tasks:,} tasks, "
                f"{self.kills} of {self.size.kills} kills, {others} of {self.size.others} other faults"
            )

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.began

    @property
    def took(self) -> str:
        minutes, seconds = divmod(round(self.seconds), 60)
        return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}"

    def table(self, evidence: Evidence, found: Sequence[str]) -> str:
        """The result, as a table."""
        lost = sum(complaint.startswith("lost: ") for complaint in found)
        repeated = sum(any(words in complaint for words in REPEATED) for complaint in found)
        again = len(evidence.called) - len(set(map(tuple, evidence.called)))
        rows: dict[str, object] = {
            "seed": self.seed,
            "took": self.took,
            "faults": self.faults.total(),
            **{f"  {kind}": count for kind, count in sorted(self.faults.items())},
            "kills": self.kills,
            "tasks accepted": f"{len(evidence.accepted):,}",
            **{f"  {status}": count for status, count in sorted(statuses(evidence).items())},
            "lost": lost,
            "repeated": repeated,
            "other complaints": len(found) - lost - repeated,
            "calls of the model": f"{evidence.model_calls:,}, {again} of them again after a fault",
            **_money_of(evidence),
        }
        lines = [f"  {name:<22}{value}" for name, value in rows.items()]
        return "\n".join([f"soak {self.store}: {'FAILED' if found else 'passed'}", *lines])


def statuses(evidence: Evidence) -> Counter[str]:
    """How the tasks of clients ended, those that failed with the type of their error."""
    accepted = set(evidence.accepted)
    ends = [parse_outcome(event) for event in evidence.select_events(*FINAL)]
    return Counter(
        f"failed: {end.error.type}" if end.status == "failed" and end.error else end.status
        for end in ends
        if end.task_id in accepted
    )


def _money_of(evidence: Evidence) -> Mapping[str, str]:
    if (money := evidence.money) is None:
        return {}
    ledger = f"${money.ledger}, ${money.estimated} of it for calls that were cut off"
    return {"provider counted": f"${money.provider}", "ledger has": ledger}
