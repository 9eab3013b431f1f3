"""[context]: the context of runs."""

from __future__ import annotations

from typing import Self

from pydantic import Field, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from meshwright.context.rules import Rule
from meshwright.settings.forms import Table


class ContextSettings(Table):
    """[context]: the context of runs."""

    max_tokens: int = Field(default=8_000, ge=200)
    """Tokens that the context of one run may take."""
    memory_max_tokens: int = Field(default=1_000, ge=0)
    """Tokens of that which recalled memories may take; 0 recalls none."""
    embedding_model: str = ""
    """The group of deployments that embeds memories and what is asked of them, so that memories are recalled
    by their meaning too. Their texts are sent there. Empty: they are recalled by their words alone."""
    embedding_floor: float = Field(default=0.35, ge=0, le=1)
    """The likeness (cosine) to a question that a memory has at least where none of its words say so."""
    window_tokens: int | None = Field(default=None, ge=1_000)
    """Tokens that a model reads in one call, where neither its price list nor `max_input_tokens` of its
    deployment says so. Unset: as many as it takes until it refuses."""
    rules: tuple[Rule, ...] = ()
    """The rules of what is passed on from a sender to a receiver. One for two named agents comes before one
    for the receiver, that before one for the sender."""

    @model_validator(mode="after")
    def _one_rule_for_a_pair(self) -> Self:
        pairs: dict[tuple[str, str], int] = {}
        for number, rule in enumerate(self.rules):
            before = pairs.setdefault((rule.sender, rule.receiver), number)
            if before != number:
                said = "rules[{before}] is from {sender} to {receiver} too: make them one"
                known = {"before": before, "sender": rule.sender, "receiver": rule.receiver}
                error = PydanticCustomError("rule", said, known)
                details = InitErrorDetails(type=error, loc=("rules", number), input={})
                raise ValidationError.from_exception_data("rules", [details])
        return self
