"""[context]: the context of runs."""

from __future__ import annotations

from typing import Self

from pydantic import Field, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from meshwright.agents.context.rules import ContextRule
from meshwright.core.settings.forms import Table


class ContextSettings(Table):
    """[context]: the context of runs."""

    max_tokens: int = Field(default=8_000, ge=200)
    """Tokens of the context of a run."""
    memory_max_tokens: int = Field(default=1_000, ge=0)
    """Tokens of recalled memories in it; 0: none."""
    embedding_model: str = ""
    """The models that embed memories. Empty: words alone count."""
    embedding_floor: float = Field(default=0.35, ge=0, le=1)
    """Least likeness of a memory that shares no word."""
    window_tokens: int | None = Field(default=None, ge=1_000)
    """Tokens of a model's window, if its deployment does not say it. Behind a server it goes before the price
    list, whose window may be larger."""
    rules: tuple[ContextRule, ...] = ()
    """Rules for the context that a sender passes on."""

    @model_validator(mode="after")
    def _one_rule_for_a_pair(self) -> Self:
        pairs: dict[tuple[str, str], int] = {}
        for number, rule in enumerate(self.rules):
            before = pairs.setdefault((rule.sender, rule.receiver), number)
            if before != number:
                template = "rules[{before}] is from {sender} to {receiver} too: make them one"
                values = {"before": before, "sender": rule.sender, "receiver": rule.receiver}
                error = PydanticCustomError("rule", template, values)
                details = InitErrorDetails(type=error, loc=("rules", number), input={})
                raise ValidationError.from_exception_data("rules", [details])
        return self
