"""Money: exact amounts of US dollars, prices of tokens, and budgets as they are declared."""

from __future__ import annotations

from decimal import ROUND_CEILING, Decimal, InvalidOperation
from typing import Annotated, Any, Literal

import msgspec
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainSerializer
from pydantic_core import PydanticCustomError

PICO = Decimal("1e-12")
MILLION = Decimal(1_000_000)


class _Exact(Decimal):
    """An amount in a struct: JSON has its digits, where a Decimal may get an exponent."""

    __slots__ = ()


ZERO: Decimal = _Exact(0)
MAX_DOLLARS = Decimal(1_000_000_000)
PLACES = 12  # digits after the point
MAX_COST = Decimal(1_000_000)  # of one call of a model
TASK_BUDGET = "budget_usd"
"""The name of the budget that a task brings."""

OnEmpty = Literal["fail", "wait", "ask", "cheaper"]
"""The reaction of a call to a hard budget without money: fail, wait until it renews, wait until a person
raises it, or go on with a cheaper tag."""


def is_amount(amount: Decimal) -> bool:
    """Whether an amount is 0 to MAX_DOLLARS, with at most PLACES digits after the point.

    Look before formatting or adding up an amount from outside: `1e300000000` has 300 million digits.
    """
    return amount.is_finite() and ZERO <= amount <= MAX_DOLLARS and _exponent(amount) >= -PLACES


def _exponent(amount: Decimal) -> int:
    return int(amount.as_tuple().exponent)


def _bounded(amount: Decimal) -> Decimal:
    if not is_amount(amount):
        raise PydanticCustomError(
            "dollars",
            "expected dollars from 0 to {most}, with at most {places} digits after the point",
            {"most": f"{MAX_DOLLARS:,}", "places": PLACES},
        )
    return amount or ZERO  # a zero may have an exponent of its own


Amount = Annotated[Decimal, PlainSerializer(lambda amount: f"{amount:f}", return_type=str, when_used="json")]
"""An exact amount of US dollars in the mesh's own records: a sum, or an amount that `Dollars` let in.

Text in JSON (`"0.0000084"`), since a number there would lose digits.
"""
Dollars = Annotated[Amount, Field(json_schema_extra={"minimum": 0}), AfterValidator(_bounded)]
"""An amount of US dollars from outside: a budget or a price. See `is_amount` for its bounds."""


def exact(holder: Any, name: str, amount: Decimal | None) -> None:
    """Make a field of a struct exact that may have been given as another number."""
    if amount is None or type(amount) is _Exact:
        return
    number = amount if isinstance(amount, Decimal) else str(amount)
    msgspec.structs.force_setattr(holder, name, _Exact(number) if amount else ZERO)


def fit(amount: Decimal) -> Decimal:
    """An amount that was calculated, as `Dollars` takes it: rounded up, and cut off at MAX_DOLLARS."""
    if amount >= MAX_DOLLARS:
        return MAX_DOLLARS
    return amount if _exponent(amount) >= -PLACES else amount.quantize(PICO, ROUND_CEILING)


def reported_cost(value: object) -> Decimal | None:
    """The cost of one call as somebody else reports it; None where it is no amount, or an absurd one.

    Floating point has more digits than a cost: those after the twelfth are rounded off.
    """
    try:
        cost = value if isinstance(value, Decimal) else Decimal(str(value))
    except (InvalidOperation, ValueError):  # an integer of thousands of digits has no text
        return None
    if not cost.is_finite() or not (not cost or PICO <= cost <= MAX_COST):
        return None
    return (cost or ZERO) if _exponent(cost) >= -PLACES else cost.quantize(PICO)


def pico(amount: Decimal) -> int:
    """An amount in millionths of a millionth of a dollar, rounded up: what SQL can add up exactly."""
    return int((amount / PICO).to_integral_value(ROUND_CEILING))


def from_pico(amount: int) -> Decimal:
    """The dollars of so many picodollars."""
    return (amount * PICO).normalize() + 0


class Price(BaseModel):
    """The price of a model's tokens, in dollars per million.

    Input from the provider's cache, and input that it writes there, costs as other input unless set.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    input: Dollars
    output: Dollars
    cached_input: Dollars | None = None
    cache_write: Dollars | None = None

    def cost(
        self, prompt_tokens: int, completion_tokens: int, cached_tokens: int = 0, cache_write_tokens: int = 0
    ) -> Decimal:
        """The price of a call; tokens from and for the cache are some of the prompt's."""
        cached = min(cached_tokens, prompt_tokens)
        cache_writes = min(cache_write_tokens, prompt_tokens - cached)
        at = self.input if self.cached_input is None else self.cached_input
        writing = self.input if self.cache_write is None else self.cache_write
        spent = self.input * (prompt_tokens - cached - cache_writes) + at * cached + writing * cache_writes
        return fit((spent + self.output * completion_tokens) / MILLION)


class Budget(BaseModel):
    """How much may be spent: by one scope, in a window of time."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")
    """Its name: lower-case letters, digits and hyphens."""
    scope: Literal["mesh", "tenant", "agent", "tag", "thread", "task"] = "mesh"
    """The kind of spender that it limits."""
    of: str = Field(default="*", min_length=1, max_length=64)
    """The spender, such as `researcher-agent`. `*`: each of the scope has a budget of its own."""
    limit_usd: Dollars
    """US dollars in one window."""
    window: Literal["hour", "day", "month", "total"] = "total"
    """The time after which it renews. `total`: never."""
    hard: bool = True
    """Whether calls that do not fit are refused, as `on_empty` says. A soft budget warns."""
    cheaper_tag: str | None = None
    """The tag that calls go on with, above a soft limit or with `on_empty = "cheaper"`. None without one."""
    on_empty: OnEmpty = "fail"
    """The reaction of a hard budget to a call that does not fit."""
    tenant_id: str | None = Field(default=None, min_length=1, max_length=64)
    """Only calls of this tenant count. None: those of all."""
