"""Forms of settings: host names, addresses, topics and URLs, each refused with what was expected."""

from __future__ import annotations

import re
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr


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
BrokerUrl = Annotated[
    SecretStr | None,
    _matching(r"mqtts?://[^\s/].*", "a URL like mqtt://user:password@127.0.0.1:1883, or with mqtts://"),
]
MqttUrl = Annotated[
    str | None,
    _matching(
        r"mqtts?://(\[[0-9A-Fa-f:.]+\]|[^\s/:@?#\[\]]+)(:\d+)?/?",
        "a URL like mqtt://127.0.0.1:1883; users are for mqtt_username",
    ),
    AfterValidator(_port_is_usable),
]
