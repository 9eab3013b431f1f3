"""Forms of settings: host names, addresses, topics and URLs, each refused with what was expected."""

from __future__ import annotations

import re
from collections.abc import Mapping
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Annotated, Any, ClassVar, Self
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ByteSize,
    ConfigDict,
    Field,
    SecretStr,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from meshwright.settings.references import Secret


class Table(BaseModel):
    """Base of a table of settings."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    variables: ClassVar[Mapping[str, str]] = {}
    """Further variables of the environment that set fields, as other programs name them."""

    def check_others(self, settings: Any) -> None:
        """Raises ValueError where the table does not fit the others."""


class Signed(Table):
    """Base of a table with what messages are signed with."""

    secret: Secret | None = None
    """The secret that signs messages."""
    previous_secret: Secret | None = None
    """The secret before that, which is good as well: for changing the secret without a gap."""

    @property
    def secrets(self) -> tuple[str, ...]:
        """Both, the new one first."""
        both = (self.secret, self.previous_secret)
        return tuple(secret.get_secret_value() for secret in both if secret is not None)

    @model_validator(mode="after")
    def _has_a_secret_first(self) -> Self:
        if self.previous_secret is not None and self.secret is None:
            raise ValueError("has a previous_secret and no secret")
        if not all(self.secrets):
            raise ValueError("the secret is empty")
        return self


def _matching(pattern: str, expected: str) -> AfterValidator:
    """Refuse a text, or a secret, of another form; None is no text."""

    def check(value: Any) -> Any:
        text = value.get_secret_value() if isinstance(value, SecretStr) else value
        if text is not None and not re.fullmatch(pattern, text):
            raise ValueError(f"expected {expected}")
        return value

    return AfterValidator(check)


def http_url(example: str) -> AfterValidator:
    """Refuse what is no URL of HTTP; the error shows `example`."""
    return _matching(r"https?://[^\s/].*", f"a URL with http:// or https://, like {example}")


def _port_is_usable(url: str | None) -> str | None:
    if url is not None and urlsplit(url).port == 0:
        raise ValueError("expected a port from 1 to 65535")
    return url


HostName = Annotated[
    str,
    _matching(
        r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*", "host names without scheme and port, like mesh.example.com"
    ),
    AfterValidator(str.lower),
]
Address = Annotated[
    str | None, _matching(r"[^\s:/,]+:\d+(,[^\s:/,]+:\d+)*", "host:port, like 127.0.0.1:6379")
]
Topic = Annotated[
    str,
    Field(max_length=128),
    _matching(
        r"[A-Za-z0-9_-]+(/[A-Za-z0-9_-]+)*", "letters, digits, _ and - in parts joined by /, like home/mesh"
    ),
]
Label = Annotated[
    str,
    Field(max_length=63),
    _matching(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?", "lower-case letters, digits and hyphens, like team-a"),
]


_BYTES: TypeAdapter[int] = TypeAdapter(ByteSize)


def _size_of(value: Any) -> int:
    try:
        return _BYTES.validate_python(value)
    except ValidationError:
        raise ValueError('expected bytes, or a text like "500MB" or "2GiB"') from None


Size = Annotated[int, BeforeValidator(_size_of)]
Network = Annotated[IPv4Network | IPv6Network, BeforeValidator(ip_network)]
BrokerUrl = Annotated[
    Secret | None,
    _matching(r"mqtts?://[^\s/].*", "a URL like mqtt://user:password@127.0.0.1:1883, or with mqtts://"),
]
MqttUrl = Annotated[
    str | None,
    _matching(
        r"mqtts?://(\[[0-9A-Fa-f:.]+\]|[^\s/:@?#\[\]]+)(:\d+)?/?",
        "a URL like mqtt://127.0.0.1:1883; users are for mqtt.username",
    ),
    AfterValidator(_port_is_usable),
]
