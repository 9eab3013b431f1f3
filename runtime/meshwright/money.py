"""Money: exact amounts of US dollars, prices of tokens, and budgets as they are declared."""

from __future__ import annotations

from decimal import ROUND_CEILING, Decimal
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer

Dollars = Annotated[Decimal, PlainSerializer(lambda amount: f"{amount:f}", return_type=str, when_used="json")]
"""An exact amount of US dollars; text in JSON (`"0.0000084"`), since a number there would lose digits."""

PICO = Decimal("1e-12")
MILLION = Decimal(1_000_000)
ZERO = Decimal(0)


def pico(amount: Decimal) -> int:
    """An amount in millionths of a millionth of a dollar, rounded up: what SQL can add up exactly."""
    return int((amount / PICO).to_integral_value(ROUND_CEILING))


def from_pico(amount: int) -> Decimal:
    """What `pico` counts, in dollars."""
    return (amount * PICO).normalize() + 0


class Price(BaseModel):
    """What a model's tokens cost, in dollars per million. Cached input costs as other where not told."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    input: Dollars = Field(ge=ZERO)
    output: Dollars = Field(ge=ZERO)
    cached_input: Dollars | None = Field(default=None, ge=ZERO)

    def of(self, prompt_tokens: int, completion_tokens: int, cached_tokens: int = 0) -> Decimal:
        """The price of a call; `cached_tokens` are some of the prompt's."""
        cached = min(cached_tokens, prompt_tokens)
        at = self.input if self.cached_input is None else self.cached_input
        spent = self.input * (prompt_tokens - cached) + at * cached + self.output * completion_tokens
        return spent / MILLION


class Budget(BaseModel):
    """How much may be spent: by one scope, in a window of time.

    `of` names whose budget it is (`researcher-agent`); `*` gives each of the scope one of its own. `hard`
    refuses what does not fit; a soft one warns, and calls go on with `cheaper_tag` where it names one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")
    scope: Literal["mesh", "tenant", "agent", "tag", "thread", "task"] = "mesh"
    of: str = Field(default="*", min_length=1, max_length=64)
    limit_usd: Dollars = Field(ge=ZERO)
    window: Literal["hour", "day", "month", "total"] = "total"
    hard: bool = True
    cheaper_tag: str | None = None
