"""How calls of models fail: what a provider, a budget or the answer's shape refuses."""

from __future__ import annotations

from typing import Any, Literal

from meshwright.core.errors import ModelError
from meshwright.core.money import OnEmpty

_MENDABLE_STATUSES = frozenset({402, 404})  # no credit, no such model: another deployment may have them


class ModelUnavailable(ModelError):
    """No connection, or the server is at fault or overloaded."""

    status = 503
    retryable = True


class AllProvidersDown(ModelUnavailable):
    """Every deployment that could answer was tried or is down."""


class RateLimited(ModelError):
    """The provider asks to wait, for `retry_after_seconds` where it says so."""

    status = 429
    retryable = True


class ModelTimeout(ModelError):
    """No reply in time. `is_silent`: it was to be streamed, had long enough, and nothing of it came."""

    status = 504
    retryable = True
    is_silent: bool = False


class Unauthorized(ModelError):
    """The provider refused our credentials, or there are none."""

    status = 502


class ModelRefused(ModelError):
    """The provider rejected the request, and would again."""

    status = 502


Part = Literal["tools", "response_format", ""]
"""A part of a request that a model may not take; "" where it is not known which."""


class Unsupported(ModelRefused):
    """The model, or its server, does not take a part of the request: `what`. It may do without it."""

    def __init__(self, message: str, *, what: Part = "", **advice: Any) -> None:
        super().__init__(message, **advice)
        self.what: Part = what


class ContextTooLong(ModelRefused):
    """The messages do not fit the model's window."""


class ContentRefused(ModelRefused):
    """The provider's policy forbids request or answer."""


class EmptyReply(ModelError):
    """The model gave neither text nor a call of a tool, also when asked again."""

    status = 502


class ReplyCutOff(ModelError):
    """The model's reply ended at `max_tokens`.

    `text` is what there is, all continuations together.
    """

    status = 502

    def __init__(self, message: str, *, text: str = "", **advice: Any) -> None:
        super().__init__(message, **advice)
        self.text = text


class BudgetExceeded(ModelError):
    """A hard budget has no room for the call, which was not made.

    `on_empty` is what the budget says to do then, `owner` is whose it is: a task, an agent, a tenant.
    `is_busy`: there is money, but calls under way have reserved it; `can_be_cheaper`: a cheaper model could
    answer, which nobody has allowed yet.
    """

    status = 402

    def __init__(
        self,
        message: str,
        *,
        budget: str = "",
        account: str = "",
        on_empty: OnEmpty = "fail",
        cheaper_tag: str | None = None,
        is_busy: bool = False,
        owner: str = "",
        **advice: Any,
    ) -> None:
        super().__init__(message, **advice)
        self.budget = budget
        self.account = account
        self.owner = owner
        self.can_be_cheaper = False
        self.on_empty: OnEmpty = on_empty
        self.cheaper_tag = cheaper_tag
        self.is_busy = is_busy


class PriceUnknown(BudgetExceeded):
    """The cost of the call is unknown, so no budget can allow it."""


class StructureInvalid(ModelError):
    """The model did not answer in the requested shape, even when asked again.

    `raw` is its last answer, which the message does not quote.
    """

    status = 502

    def __init__(self, message: str, *, raw: str = "", **advice: Any) -> None:
        super().__init__(message, **advice)
        self.raw = raw


class ShapeMismatch(StructureInvalid):
    """The answer does not have the shape that the task's caller wants."""

    status = 422


def is_mendable(error: ModelError) -> bool:
    """Whether another deployment may answer what this one could not: not a bad request."""
    if type(error) is ModelRefused:
        return error.answered in _MENDABLE_STATUSES
    return error.retryable or isinstance(error, Unauthorized)


def is_refusal(error: ModelError) -> bool:
    """Whether a provider has refused the key, the credit or the model: a person may mend that.

    Not so where there is no key to refuse: no provider was asked then.
    """
    return not error.retryable and error.answered is not None and is_mendable(error)
