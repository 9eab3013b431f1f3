"""The work of a scenario for a contender, and its results. Standard library alone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests.support.simulator.world import World


@dataclass(frozen=True)
class Job:
    url: str
    folder: str
    persona: str
    steps: int
    items: tuple[str, ...]
    window: int
    prices: dict[str, str]
    wire: str = "openai"

    @property
    def path(self) -> Path:
        """The folder."""
        return Path(self.folder)

    @property
    def max_steps(self) -> int:
        """How many calls of the model an item may take."""
        return 2 * self.steps + 100

    def encode(self) -> str:
        """As JSON, for a command line."""
        return json.dumps(asdict(self))

    @classmethod
    def decode(cls, text: str) -> Job:
        """Read what `encode` wrote."""
        fields = json.loads(text)
        return cls(**{**fields, "items": tuple(fields["items"])})

    def world(self) -> World:
        """The world of the items."""
        return World(self.path / "world.db", self.persona, self.steps)

    def request(self, item: str) -> str:
        return f"Do work item {item}."

    def write(self, item: str, text: str | None, error: str | None = None) -> None:
        """Write down how an item ended."""
        with (self.path / "answers.jsonl").open("a") as file:
            file.write(json.dumps({"item": item, "text": text, "error": error}) + "\n")

    def answers(self) -> dict[str, dict[str, Any]]:
        return {answer["item"]: answer for answer in self._lines()}

    def open_items(self) -> list[str]:
        """The items that have no answer yet."""
        answered = self.answers()
        return [item for item in self.items if item not in answered]

    def _lines(self) -> Iterator[dict[str, Any]]:
        try:
            lines = (self.path / "answers.jsonl").read_text().splitlines()
        except FileNotFoundError:
            return
        for line in lines:
            try:
                yield json.loads(line)
            except ValueError:  # the last may have been cut short by a kill
                continue
