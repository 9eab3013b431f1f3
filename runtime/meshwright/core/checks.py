"""Checks: whether a step that was interrupted has happened."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Literal, Self

from meshwright.core.encoding import Struct

CheckOutcome = Literal["happened", "did_not_happen", "unknown"]


class CheckResult(Struct):
    """The result of a check: whether a step that was interrupted has happened."""

    outcome: CheckOutcome
    """`happened`, `did_not_happen` or `unknown`."""
    result: Any = None
    """The result of the step, if it happened."""
    evidence: str = ""
    """The observations of the check, for people."""

    @classmethod
    def happened(cls, result: Any = None, evidence: str = "") -> Self:
        """It happened, and gave this result: it is not run again."""
        return cls(outcome="happened", result=result, evidence=evidence)

    @classmethod
    def did_not_happen(cls, evidence: str = "") -> Self:
        """It did not happen, and will not any more: it is run again.

        Only for a check that can know: not while a request that was sent may still take effect.
        """
        return cls(outcome="did_not_happen", evidence=evidence)

    @classmethod
    def unknown(cls, evidence: str) -> Self:
        """The check cannot tell: a person is asked, and sees the evidence."""
        return cls(outcome="unknown", evidence=evidence)


StepCheck = Callable[[], Awaitable[CheckResult]]
"""The check of a step, within its limits. It reports its own failure as `unknown`."""
