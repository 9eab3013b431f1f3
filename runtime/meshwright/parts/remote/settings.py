"""[remote.NAME]: agents elsewhere, by the addresses at which they speak A2A."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from meshwright.component import Secret, Table
from meshwright.core.settings.forms import Size, has_form, http_url

COST = "urn:meshwright:a2a:cost-usd"
"""The key in the metadata of a task with its cost in US dollars, as a text."""
IDEMPOTENT = "urn:meshwright:a2a:idempotent-messages"
"""The extension of a card that says: a message that is sent again is the same task, or the same answer."""
_HEADER = re.compile(r"[A-Za-z0-9-]{1,64}")
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


def _check_address(url: str) -> str:
    parts = urlsplit(url)
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ValueError("expected a URL without user, password, query and fragment")
    return url.rstrip("/")


class RemotePeer(Table):
    """An agent elsewhere, which is an agent of the mesh under the name of the table."""

    a2a: Annotated[str, http_url("https://agents.example.com"), AfterValidator(_check_address)]
    """Its address. Its card is read from `/.well-known/agent-card.json` below that."""
    token: Secret | None = None
    """Sent as `Authorization: Bearer`."""
    headers: Mapping[str, Secret] = {}
    """Further headers of each request, such as `X-API-Key`."""
    ca_file: Path | None = None
    """File with the certificates to trust, where they are the operator's own."""
    skills: tuple[str, ...] = ("*",)
    """Patterns of the skills of its card that are capabilities of the agent, beside its own name."""
    weight: float = Field(default=0.9, ge=0, le=1)
    """The weight of these capabilities: below 1, agents of the mesh that have the same are preferred."""
    idempotent: bool = False
    """Whether a message may be sent twice. Meshwright as a peer says so itself."""
    cost: str = COST
    """The key in the metadata of its tasks that has their cost in US dollars."""
    timeout_seconds: float = Field(default=60.0, gt=0, le=600)
    """Seconds that a request may take."""
    max_bytes: Size = Field(default=4_000_000, ge=1_000, le=100_000_000)
    """Size that an answer may have, unpacked."""

    @model_validator(mode="after")
    def _check_credentials(self) -> Self:
        for name, value in self.headers.items():
            if not _HEADER.fullmatch(name) or not has_form(value, str.isprintable):
                raise ValueError(f"{name!r} cannot be a header: expected letters, digits, -, and one line")
        parts = urlsplit(self.a2a)
        if parts.scheme == "http" and (self.headers or self.token) and parts.hostname not in _LOOPBACK:
            raise ValueError("token and headers go over https alone, or to this machine")
        return self

    @property
    def sent_headers(self) -> dict[str, str]:
        """The headers with credentials, which are plain here."""
        headers = {name: value.get_secret_value() for name, value in self.headers.items()}
        if self.token is not None:
            headers["Authorization"] = f"Bearer {self.token.get_secret_value()}"
        return headers

    @property
    def secrets(self) -> list[str]:
        """The texts that a peer may have said again, and that nobody may see."""
        values = [*self.headers.values(), *([self.token] if self.token is not None else [])]
        return [value.get_secret_value() for value in values]


_Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,31}$")]
RemoteSettings = Mapping[_Name, RemotePeer]
"""[remote]: a table for each agent elsewhere."""
