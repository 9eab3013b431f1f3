"""The URL that a task names for its outcome, and who sends it there."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr

from meshwright.core.errors import InvalidInput
from meshwright.core.messages import Caller, TaskRequest
from meshwright.edges.bodies import Strict
from meshwright.edges.deliveries import standard_key
from meshwright.mesh import Mesh

_MAX_URL_CHARS = 2_000


def usable_url(url: str) -> str:
    """A URL that outcomes can be sent to. Raises ValueError."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0:
        raise ValueError("expected a URL with https://, like https://example.com/hook")
    if parts.username is not None or parts.fragment or not url.isprintable() or " " in url:
        raise ValueError("the URL holds credentials, a fragment or spaces: leave them out")
    return url


def _usable_secret(secret: SecretStr) -> SecretStr:
    standard_key(secret.get_secret_value())
    return secret


class Notify(Strict):
    """The URL that gets the outcome of a task, and the secret that signs it (`whsec_...`)."""

    url: Annotated[str, Field(max_length=_MAX_URL_CHARS), AfterValidator(usable_url)]
    secret: Annotated[SecretStr, AfterValidator(_usable_secret)]


class NotifyingRequest(TaskRequest):
    """A task, and a URL that gets its outcome."""

    notify: Notify | None = Field(
        default=None, exclude=True, description="A URL that gets the outcome, signed, at least once."
    )


class Notifier(ABC):
    """The component that sends outcomes to the URLs that tasks name."""

    @abstractmethod
    def check_notify(self, notify: Notify) -> None:
        """Raises InvalidInput where the settings do not allow it."""

    @abstractmethod
    async def notify(self, caller: Caller, task_id: str, notify: Notify) -> None:
        """Have the outcome of a task sent, also of one that has ended; durable when this returns."""


def notifier_of(mesh: Mesh) -> Notifier:
    """The notifier of a mesh. Raises InvalidInput where it has none."""
    try:
        return mesh.get(Notifier)
    except LookupError:
        raise not_allowed() from None


def not_allowed() -> InvalidInput:
    """The error that tasks may name no URL."""
    return InvalidInput(
        "Tasks of this mesh may not name a URL",
        remedy="Set notify = true in [webhooks] of mesh.toml, or follow the task's events",
        field="notify",
    )
