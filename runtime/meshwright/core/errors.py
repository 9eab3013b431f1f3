"""Every error that Meshwright raises on purpose.

    MeshError
    ├── InvalidInput              a request, argument or message that cannot be accepted
    │   └── TooLarge              ... because it is over a size or depth limit
    ├── NotFound                  a task or an agent that is not known
    ├── NoAgentAvailable          no agent can do it: unknown capability, or all are offline
    ├── Forbidden                 the caller may not do what was asked
    ├── Conflict                  it contradicts what is stored
    │   └── IdempotencyConflict   a repeated key with another body
    ├── ConfigError               a file or setting that cannot be used (file, line, what was expected)
    │   └── PromptError           ... a prompt file
    ├── Overloaded                as many tasks are open as may be
    ├── StorageExceeded           a tenant stores as much as it may
    ├── HostError                 the runtime cannot do its part
    │   ├── MailboxFull           an actor has more messages waiting than it may
    │   ├── Draining              the runtime is stopping and takes nothing new
    │   ├── StoreLocked           another process holds the data
    │   ├── StoreTooNew           the data was written by a newer version
    │   ├── StoreTooOld           the data was written by a version that is no longer read
    │   ├── StoreFailed           a write failed: disk full, read-only, corrupt
    │   ├── StoreUnavailable      the store, or the sidecar before it, does not answer now
    │   └── ServiceFailed         a program that the mesh rests on cannot be started, or does not stay up
    ├── AgentError                an agent's code does what it may not (its file and line)
    ├── TaskFailed                a task has no answer of the wanted shape: it failed, or answered otherwise
    ├── LimitReached              a run reached a limit, and its model did not answer
    │   └── TaskLimitReached      ... a limit that the task's caller has set
    ├── ReplayMismatch            a resumed run does not follow its journal
    ├── RestartDenied             ... and a person wants nothing of it repeated
    ├── ToolFailed                a tool could not do what was asked
    │   └── DelegationFailed      ... since the agent that it asked did not succeed
    ├── MemoryUnavailable         memories cannot be read or written
    ├── CacheUnavailable          answers of models cannot be read or written: calls go on without them
    └── ModelError                a model call failed (see models.errors for the kinds)

Each names what happened, and where it can what to do (`remedy`) and which field was wrong (`field`).
`status` is the HTTP status of its problem document, `code` its stable name on the wire.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, Self, TypeVar

_CAPITAL_WORD = re.compile(r"[A-Z][a-z]+[ ,:]")


def in_one_line(message: str, remedy: str) -> str:
    """A message and its remedy as one sentence, for the command line; a name stays as it is written."""
    if _CAPITAL_WORD.match(remedy):
        remedy = remedy[0].lower() + remedy[1:]
    return f"{message}; {remedy}" if remedy else message


class MeshError(Exception):
    """Base of every error that Meshwright raises on purpose."""

    status = 500

    def __init__(self, message: str, *, remedy: str = "", field: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy
        self.field = field

    @property
    def code(self) -> str:
        """The error's stable name on the wire: its class name."""
        return type(self).__name__.lstrip("_")

    def __str__(self) -> str:
        if not self.remedy:
            return self.message
        end = "" if self.message.endswith((".", "!", "?", "…")) else "."  # a provider's words may have theirs
        return f"{self.message}{end} {self.remedy}"


ErrorT = TypeVar("ErrorT", bound=MeshError)


def error_of_code(code: Any, kind: type[ErrorT]) -> type[ErrorT] | None:
    """The class of errors with a code: `kind` or one below it, as far as they are imported."""
    if kind.__name__.lstrip("_") == code:
        return kind
    return next(filter(None, (error_of_code(code, below) for below in kind.__subclasses__())), None)


_WITHOUT_ERROR = frozenset({"BrokeOff", "Cancelled", "DeadlineExceeded", "TaskTimeout", "Timeout"})
"""The types of faults that no exception led to."""


def is_own_fault(kind: str) -> bool:
    """Whether a type of faults is ours: the code of an error that is imported, or a type without one."""
    return kind in _WITHOUT_ERROR or error_of_code(kind, MeshError) is not None


class InvalidInput(MeshError):
    """A request, argument or message that cannot be accepted."""

    status = 422


class TooLarge(InvalidInput):
    """Input over a limit of size or depth."""

    status = 413


class NotFound(MeshError):
    """A task or an agent that is not known."""

    status = 404


class NoAgentAvailable(MeshError):
    """No agent has the capability, or all that have it are offline."""

    status = 503


class Conflict(MeshError):
    """The request contradicts the stored state."""

    status = 409


class Unauthenticated(MeshError):
    """The key is missing or invalid."""

    status = 401


class Forbidden(MeshError):
    """The caller may not do that."""

    status = 403


class IdempotencyConflict(Conflict):
    """The idempotency key had another body before, or another caller."""


class ConfigError(MeshError):
    """A file or a setting that cannot be used."""

    def __init__(
        self, message: str, *, path: str = "", line: int | None = None, remedy: str = "", field: str = ""
    ) -> None:
        where = f"{path}:{line}" if path and line else path
        super().__init__(f"{where}: {message}" if where else message, remedy=remedy, field=field)
        self.path = path
        self.line = line


class PromptError(ConfigError):
    """A prompt file that is missing, broken, or used with the wrong variables."""


class Overloaded(MeshError):
    """The mesh, tenant or thread has as many open tasks as it may."""

    status = 429
    retry_after_seconds = 5.0


class StorageExceeded(MeshError):
    """The tenant stores as much as it may."""

    status = 507


class HostError(MeshError):
    """The runtime cannot do its part; a later try may succeed."""

    status = 503


class MailboxFull(HostError):
    """Too many messages wait for an actor."""


class Draining(HostError):
    """The process is stopping, or waits for its store."""


class StoreLocked(HostError):
    """Another process holds the data."""


class StoreTooNew(HostError):
    """The data was written by a newer version."""


class StoreTooOld(HostError):
    """The data was written by a version that is too old."""


class StoreFailed(HostError):
    """A write to the store failed; nothing that depended on it was accepted."""

    def __init__(self, message: str, *, is_away: bool = False, **advice: Any) -> None:
        super().__init__(message, **advice)
        self.is_away = is_away
        """Whether the server was not reached, or ended the connection: it may be back in a moment."""


class StoreMoved(StoreFailed):
    """The store was migrated, or is being filled."""


class StoreUnavailable(HostError):
    """The store or its sidecar does not answer: the request may have taken effect.

    A repeat under the same id (or Idempotency-Key) is safe.
    """


class ServiceFailed(HostError):
    """A broker, store, sidecar or worker cannot be started or stay up."""


class AgentError(MeshError):
    """An agent's code does what it may not; the message names file and line."""


class LimitReached(MeshError):
    """A run reached `limit`, such as `max_steps`, and its model gave no answer then."""

    def __init__(self, message: str, *, limit: str = "", **advice: Any) -> None:
        super().__init__(message, **advice)
        self.limit = limit


class TaskLimitReached(LimitReached):
    """The same of a limit that the task's caller has set."""


class ReplayMismatch(MeshError):
    """A resumed run asked for another step than the one in its journal."""


class RestartDenied(MeshError):
    """The same, and a person denied a restart from the beginning: the task ends, nothing is repeated."""


class ToolFailed(MeshError):
    """A tool could not do what was asked; the model gets the message.

    `was_begun` is false where a call of code was refused before the tool did anything, as by a person.
    `is_in_doubt` is true where the call may have taken effect: it has no reply. A check of the tool is asked.
    """

    was_begun = True
    is_in_doubt = False

    @classmethod
    def without_reply(cls, message: str, *, remedy: str = "") -> Self:
        """A failure of a call that may have taken effect."""
        error = cls(message, remedy=remedy)
        error.is_in_doubt = True
        return error


class TaskFailed(MeshError):
    """The task of `ask(shape=...)` failed, or its answer has another shape."""

    def __init__(self, message: str, *, task_id: str = "", remedy: str = "", field: str = "") -> None:
        remedy = remedy or (f"mesh task {task_id} shows it" if task_id else "")
        super().__init__(message, remedy=remedy, field=field)
        self.task_id = task_id


class DelegationFailed(ToolFailed):
    """The agent that was asked did not succeed."""


class WaitExpired(ToolFailed):
    """A question was not answered in time."""


class MemoryUnavailable(MeshError):
    """Memories cannot be reached; runs go on without."""

    status = 503


class CacheUnavailable(MeshError):
    """The cache cannot be reached: calls go on without it."""

    status = 503


class ModelError(MeshError):
    """A model call failed. `retryable` says whether the same call may succeed later.

    `retry_after_seconds` is how long the provider wants us to wait, if it said so; `attempts` counts the
    attempts. `reason` has the provider's own words, without keys and the prompt. With `is_retried` the mesh
    has waited and tried again, so its caller should not.
    """

    status = 502
    retryable = False
    attempts = 1
    is_retried = False
    answered: int | None = None
    """The HTTP status that the provider answered with. None if it did not answer."""
    reason = ""
    lost: tuple[Any, ...] = ()
    """Replies that a policy held back, or that broke off: `ModelReply` without their words. The provider
    bills them all the same."""
    failed_at: tuple[str, ...] = ()
    """The deployments whose attempts failed, one for each attempt, as far as they are known."""
    failed_with: tuple[str, ...] = ()
    """The codes of their errors, in the same order."""
    away: tuple[str, ...] = ()
    """The deployments that could have answered and get no calls for now."""

    def __init__(
        self, message: str, *, remedy: str = "", field: str = "", retry_after_seconds: float | None = None
    ) -> None:
        super().__init__(message, remedy=remedy, field=field)
        self.retry_after_seconds = retry_after_seconds


# Words for mistakes


def nearest(name: str, names: Iterable[str], *, cutoff: float = 0.6) -> str | None:
    """The known name that is most like this one, if any is like it; one with the same letters wins."""
    from difflib import get_close_matches  # only after a mistake

    close = get_close_matches(name, list(dict.fromkeys(names)), cutoff=cutoff)
    return min(close, key=lambda likely: sorted(likely) != sorted(name), default=None)


_SENTENCES = {
    "missing": "this field is required",
    "extra_forbidden": "there is no such field",
    "string_type": "must be text",
    "string_too_short": "must have at least {min_length} characters",
    "string_too_long": "must have at most {max_length} characters",
    "too_short": "must have at least {min_length} items",
    "too_long": "must have at most {max_length} items",
    "list_type": "must be a list",
    "tuple_type": "must be a list",
    "dict_type": "must be an object",
    "model_type": "must be an object",
    "model_attributes_type": "must be an object",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "decimal_type": "must be a number",
    "decimal_parsing": "must be a number",
    "finite_number": "must be a finite number",
    "greater_than": "must be greater than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "literal_error": "must be {expected}",
    "path_type": "must be a path, as text",
    "datetime_type": "must be a time, like 2026-12-01T09:00",
    "datetime_parsing": "must be a time, like 2026-12-01T09:00",
    "datetime_from_date_parsing": "must be a time, like 2026-12-01T09:00",
}
_FORMS = frozenset({"str", "int", "float", "bool"})
_PATTERNS = {
    r"^[A-Za-z0-9_-]{1,64}$": "may use letters, digits, - and _, at most 64",
    r"^[0-9]{1,18}$": "must be a number",
    r"^[a-z0-9_]{1,64}$": "may use lower-case letters, digits and _, at most 64",
    r"^[!-~]{1,256}$": "may use printable ASCII without spaces, at most 256",
}


def sentence(error: Any) -> str:
    """The fault of a field as a sentence, from one of the `errors()` of a ValidationError."""
    context = error.get("ctx") or {}
    if error["type"] == "string_pattern_mismatch":
        return _PATTERNS.get(context["pattern"], f"must match {context['pattern']}")
    text = _SENTENCES.get(error["type"])
    if text is None:
        return str(error["msg"]).removeprefix("Value error, ")
    return text.format(**context)


def field_faults(errors: Sequence[Any]) -> list[tuple[str, str]]:
    """The faults of a ValidationError's `errors()`, each as the dotted path of its field and a sentence.

    A value that fits no form of a field has one fault, at the place where it comes closest to one.
    """
    places: dict[str, dict[str, None]] = {}
    for error in errors:
        places.setdefault(field_path(error["loc"]), {})[sentence(error)] = None
    deepest = [place for place in places if not any(other.startswith(f"{place}.") for other in places)]
    return [(place or "body", _either(list(places[place]))) for place in deepest]


def field_path(location: Iterable[int | str]) -> str:
    """The dotted path of a field, without the forms of it that pydantic names in a location."""
    return ".".join(str(part) for part in location if not _is_form(part))


def _is_form(part: int | str) -> bool:
    return isinstance(part, str) and (part in _FORMS or "[" in part)


def _either(sentences: Sequence[str]) -> str:
    first, *others = sentences
    return " or ".join([first, *(text.removeprefix("must be ") for text in others)])
