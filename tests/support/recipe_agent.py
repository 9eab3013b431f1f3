"""A cook that answers with recipes, and what it says."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any, Literal

from pydantic import BaseModel, Field

from meshwright import Agent, Capability, tool
from meshwright.models.port import ModelReply


class Step(BaseModel):
    """One step."""

    text: str
    minutes: int | None = Field(default=None, description="how long it takes")


class Recipe(BaseModel):
    """A recipe."""

    title: str
    steps: list[Step]
    level: Literal["easy", "hard"] = "easy"


SOUP = {"title": "Soup", "steps": [{"text": "Boil.", "minutes": 10}], "level": "easy"}
SOUP_TEXT = json.dumps(SOUP)
NO_SOUP = '{"title": "Soup", "steps": [{"text": "Boil.", "minutes": "ten"}]}'


class Cook(Agent):
    """Answers with recipes."""

    agent_id = "cook"
    capabilities = (Capability("cooking"),)
    answers = Recipe

    @tool(idempotent=True)
    async def pantry(self) -> list[str]:
        """Tell what there is."""
        return ["leek"]


def said(content: str, **fields: Any) -> ModelReply:
    return ModelReply(content=content, model="m", cost_usd=Decimal(0), **fields)
