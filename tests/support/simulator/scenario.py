"""Scenarios as data: read from `scenarios.toml`."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

FILE = Path(__file__).with_name("scenarios.toml")
Kind = Literal[
    "outage", "refused-key", "rate-limit", "overload", "disconnect", "slow", "late", "dying-streams",
    "stream-error", "no-usage", "absurd-usage", "empty", "cut-off", "refusal", "broken-arguments",
    "unknown-tool",
]  # fmt: skip


@dataclass(frozen=True)
class Weather:
    kind: Kind
    start: float = 0.0
    end: float = 1e9
    share: float = 1.0
    status: int = 503
    retry_after: float | None = None
    seconds: float = 1.0
    tries: int = 1_000_000
    item: str = ""


@dataclass(frozen=True)
class Prices:
    """Dollars for a million tokens."""

    input: Decimal = Decimal("3")
    cached: Decimal = Decimal("0.3")
    cache_write: Decimal = Decimal("3.75")
    output: Decimal = Decimal("15")


@dataclass(frozen=True)
class Scenario:
    """One scenario: `tasks` tasks of `steps` steps each, which `persona` works on.

    `window` is the model's, in tokens (four characters each), for what it reads and may write; `thinking`
    makes it think before it answers, in OpenAI's wire as `reasoning_content`, in Anthropic's as signed blocks
    that it wants back. `seconds` is how long it takes to answer; `kill_seconds` are the times at which
    whatever works on the tasks is killed and started again, counted from the first call.
    """

    name: str
    about: str
    persona: str
    tasks: int = 1
    steps: int = 1
    window: int = 200_000
    thinking: bool = False
    seconds: float = 0.0
    kill_seconds: tuple[float, ...] = ()
    seed: int = 1
    prices: Prices = field(default_factory=Prices)
    weather: tuple[Weather, ...] = ()

    @property
    def items(self) -> list[str]:
        """The work items, one a task."""
        return [f"item-{number}" for number in range(1, self.tasks + 1)]


def load_scenarios(path: Path = FILE) -> dict[str, Scenario]:
    """The scenarios of a file, by name. Raises TypeError where a field has no such name."""
    tables: dict[str, dict[str, Any]] = tomllib.loads(path.read_text("utf-8"))
    return {name: _scenario(name, table) for name, table in tables.items()}


def _scenario(name: str, table: dict[str, Any]) -> Scenario:
    weather = tuple(Weather(**one) for one in table.pop("weather", ()))
    prices = Prices(**{kind: Decimal(str(price)) for kind, price in table.pop("prices", {}).items()})
    kills = tuple(table.pop("kill_seconds", ()))
    return Scenario(name=name, weather=weather, prices=prices, kill_seconds=kills, **table)
