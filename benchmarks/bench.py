"""What a benchmark is given: how long to measure, where to keep files, and sides to run in turns."""

from __future__ import annotations

import tempfile
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.sides import run_side

Round = dict[str, Any]


@dataclass(frozen=True)
class Bench:
    """The settings of a run. `root` is a folder on the disk that is measured."""

    root: Path
    rounds: int = 5
    scale: float = 1.0
    say: Callable[[str], None] = lambda text: None
    samples: list[Round] = field(default_factory=list)

    def seconds(self, seconds: float) -> float:
        """How long to measure for what takes that long in a full run."""
        return seconds * self.scale

    def count(self, number: int) -> int:
        """How many of something to do, where a full run does that many."""
        return max(1, int(number * self.scale))

    @contextmanager
    def folder(self) -> Iterator[Path]:
        """An empty folder, gone at the end."""
        with tempfile.TemporaryDirectory(prefix="bench-", dir=self.root) as name:
            yield Path(name)

    async def side(self, function: str, **arguments: Any) -> Round:
        """Run one side, once, in a process of its own and on an empty folder."""
        with self.folder() as folder:
            return await run_side(function, folder=str(folder), **arguments)

    async def sample(self) -> Round:
        """What one task writes (`sample.py`), taken once a run."""
        if not self.samples:
            self.samples.append(await self.side("benchmarks.sample:take"))
        return self.samples[0]

    async def in_turns(
        self, sides: Mapping[str, Callable[[], Awaitable[Round]]], *, rounds: int | None = None
    ) -> dict[str, list[Round]]:
        """Run every side once a round, each round in the same order."""
        results: dict[str, list[Round]] = {name: [] for name in sides}
        for number in range(1, (rounds or self.rounds) + 1):
            for name, run in sides.items():
                result = await run()
                self.say(f"  round {number}, {name}: {_brief(result)}")
                results[name].append(result)
        return results


def _brief(result: Round) -> str:
    numbers = [f"{name} {value:,.4g}" for name, value in result.items() if isinstance(value, float | int)]
    return ", ".join(numbers)
