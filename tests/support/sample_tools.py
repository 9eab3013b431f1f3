"""An owner of tools of every sort."""

import threading
from dataclasses import dataclass
from datetime import date
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from meshwright.core.errors import NotFound
from meshwright.tools import Tool, ToolContext, collect_tools, tool
from tests.support.toolset_calls import LimitedTool


class Place(BaseModel):
    latitude: float
    longitude: float


@dataclass
class Weather:
    day: date
    degrees: float


class Almanac:
    """An owner of tools; `ran` says what really ran."""

    def __init__(self) -> None:
        self.ran: list[Any] = []

    @tool(idempotent=True)
    async def sunrise(
        self, city: str, days: Annotated[int, Field(ge=1)] = 1, unit: Literal["h", "min"] = "h"
    ) -> str:
        """Tell when the sun rises.

        Clouds are left out.

        Args:
            city: a city's name,
                in English
            days: for how many days

        Returns:
            the times
        """
        self.ran.append((city, days, unit))
        return f"{city}: 6 {unit}"

    @tool
    def forecast(self, place: Place, day: date | None = None) -> Weather:
        """Forecast the weather."""
        self.ran.append((place, day, threading.current_thread()))
        return Weather(day or date(2026, 1, 2), 21.5)

    @tool(name="who-asks")
    async def who_asks(self, context: ToolContext) -> str:
        """Say who asks."""
        return f"{context.agent_id} for {context.task.task_id}"

    @tool
    async def anything(self, wanted: str) -> Any:
        """Return, or raise, whatever is wanted."""
        if wanted == "division":
            return 1 // 0
        if wanted == "unknown task":
            raise NotFound("there is no such task")
        return {
            "set": {1},
            "nan": float("nan"),
            "object": object(),
            "long": "x" * 100_000,
            "longer": "x" * 2_000_000,
        }[wanted]

    @tool
    def first(self, words: list[str]) -> str:
        """Return the first long word."""
        return next(word for word in words if len(word) > 3)

    def not_a_tool(self, city: str) -> str:
        return city


def limited_tools(*owners: object) -> list[Tool]:
    """The tools of their owners, within the limits of an agent."""
    return [LimitedTool(tool, timeout_seconds=60.0) for tool in collect_tools(*owners)]
