"""What one agent asks of another, and what it gets back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from typing import Any

from pydantic import BaseModel, ValidationError

from meshwright.core.errors import AgentError, DelegationFailed
from meshwright.core.messages import Outcome
from meshwright.core.money import is_amount


@dataclass(frozen=True, slots=True)
class Delegation:
    """A task for another agent, named or chosen by `capability`.

    `payload` goes beside the `text`; `shape` is the pydantic model of the answer, `dict` for the result as it
    is, `Outcome` for all of the outcome with its files, None for text; `timeout` is how many
    seconds a step of it may take, `deadline` all of it; `budget_usd` what it may cost of the budgets above
    it.
    """

    agent_id: str = ""
    text: str = ""
    shape: type[BaseModel] | type[dict[str, Any]] | type[Outcome] | None = None
    capability: str = ""
    payload: Mapping[str, Any] = field(default_factory=dict)
    timeout: float | None = None
    deadline: float | None = None
    budget_usd: Decimal | str | None = None

    def __post_init__(self) -> None:
        if bool(self.agent_id) == bool(self.capability):
            raise AgentError(
                "a delegation names no agent"
                if not self.agent_id
                else "a delegation names agent and capability",
                remedy="Give either agent_id or capability",
            )
        for name, seconds in (("timeout", self.timeout), ("deadline", self.deadline)):
            if seconds is not None and seconds <= 0:
                raise AgentError(
                    f"the {name} of a delegation is not positive", remedy="Give seconds, or none"
                )

    @property
    def whom(self) -> str:
        """The agent, or the capability, that is asked."""
        return self.agent_id or self.capability

    @property
    def data(self) -> dict[str, Any]:
        """The payload of its task."""
        return {"text": self.text, **self.payload} if self.text or not self.payload else dict(self.payload)

    @property
    def request(self) -> dict[str, Any]:
        """What tells it from another, as the journal has it."""
        extra = {"capability": self.capability, "payload": self.payload}
        extra |= {"timeout": self.timeout, "deadline": self.deadline}
        extra["budget_usd"] = None if self.budget_usd is None else str(self.budget_usd)
        wanted = {name: value for name, value in extra.items() if value}
        return {"agent_id": self.agent_id, "text": self.text, **wanted}

    @property
    def budget(self) -> Decimal | None:
        """What it may cost of the budgets above it; None for as much as they have."""
        if self.budget_usd is None:
            return None
        try:
            wanted = Decimal(self.budget_usd)
        except InvalidOperation:
            wanted = Decimal(-1)
        if not is_amount(wanted):
            raise AgentError(f"the budget_usd of a delegation is {self.budget_usd!r}", remedy='Write "0.50"')
        return wanted

    def answer_of(self, outcome: Outcome) -> Any:
        """The answer. Raises DelegationFailed where there is none, or one of another shape."""
        if not outcome.success:
            reason = outcome.error.message if outcome.error is not None else outcome.status
            raise DelegationFailed(f"{outcome.agent_id or self.whom} did not succeed: {reason}")
        result = outcome.result or {}
        if self.shape is None:
            return outcome.answer
        if self.shape is Outcome:
            return outcome
        if not issubclass(self.shape, BaseModel):
            return dict(result)
        try:
            return self.shape.model_validate(result)
        except ValidationError as error:
            raise DelegationFailed(
                f"{outcome.agent_id} answered in another shape than {self.shape.__name__}: {error}"
            ) from error
