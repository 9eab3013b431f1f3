"""Forms of settings: host names, addresses, topics and URLs, each refused with its form; secrets.

A setting that holds a secret may say where the secret is: `env:NAME`, `file:/path`, `systemd:NAME` (a file of
$CREDENTIALS_DIRECTORY), `kubernetes:/path` (a mounted secret), `dapr:STORE/NAME` (by the sidecar, with /KEY
where the secret has several). Anything else is the secret itself. One that cannot be read stops only what
needs it: most commands beside a running mesh need none.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Mapping
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self
from urllib.parse import quote, urlsplit

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

from meshwright.core.errors import ConfigError

_MAX_BYTES = 64 * 1024
_SIDECAR_SECONDS = 20.0  # that a sidecar which starts beside us may take
_PAUSE_SECONDS = 0.2


def refers(value: str) -> bool:
    """Whether a text says where a secret is."""
    scheme, colon, _ = value.partition(":")
    return bool(colon) and scheme in _READERS


class UnreadableSecret(ValueError):
    """The reference to a secret leads nowhere from here."""


def resolve(value: Any) -> Any:
    """The secret that a setting refers to. Raises UnreadableSecret, which names the reference alone."""
    if not isinstance(value, str):
        return value
    if not refers(value):
        return value
    scheme, _, place = value.partition(":")
    try:
        secret = _READERS[scheme](place)
    except OSError as error:
        raise UnreadableSecret(f"{value} cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise UnreadableSecret(f"{value} is no text") from None
    except LookupError as error:
        raise UnreadableSecret(f"{value}: {error.args[0]}") from None
    if not secret:
        raise UnreadableSecret(f"{value} is empty")
    return secret


class UnreadSecret(SecretStr):
    """A secret that could not be read: to use it raises the error of its setting."""

    def __init__(self, reference: str, error: ConfigError) -> None:
        super().__init__(reference)
        self._error = error

    def get_secret_value(self) -> str:
        """Raises ConfigError."""
        raise self._error


Secret = Annotated[SecretStr, BeforeValidator(resolve)]
"""The type of a setting that holds a secret, or a reference to it."""


def has_form(secret: SecretStr, check: Callable[[str], object]) -> bool:
    """Whether a secret has the form that a check expects; an unreadable one counts as if it had."""
    return isinstance(secret, UnreadSecret) or bool(check(secret.get_secret_value()))


def _environment(name: str) -> str:
    if name not in os.environ:
        raise LookupError(f"the environment has no {name}")
    return os.environ[name]


def _file(path: str) -> str:
    if not path.startswith("/"):
        raise LookupError("the path has to be absolute, like file:/etc/mesh/token")
    with Path(path).open("rb") as file:
        content = file.read(_MAX_BYTES + 1)
    if len(content) > _MAX_BYTES:
        raise LookupError(f"it has over {_MAX_BYTES:,} bytes")
    return content.decode().strip("\r\n")


def _systemd(name: str) -> str:
    folder = os.environ.get("CREDENTIALS_DIRECTORY")
    if not folder:
        raise LookupError("systemd gave no credentials: set LoadCredential= in the unit")
    if "/" in name or name in ("", ".", ".."):
        raise LookupError("name a credential, not a path")
    return _file(f"{folder}/{name}")


def _dapr(place: str) -> str:
    """A secret of a Dapr secret store. The sidecar may still be starting."""
    store, slash, name = place.partition("/")
    name, _, key = name.partition("/")
    if not slash or not store or not name:
        raise LookupError("expected dapr:STORE/NAME, or dapr:STORE/NAME/KEY")
    values = _asked_sidecar(f"/v1.0/secrets/{quote(store, safe='')}/{quote(name, safe='')}")
    key = key or (name if name in values or len(values) != 1 else next(iter(values)))
    if key not in values:
        raise LookupError("the secret has several values: name one, as dapr:STORE/NAME/KEY")
    return str(values[key])


def _asked_sidecar(path: str) -> Mapping[str, Any]:
    import http.client

    port = os.environ.get("DAPR_HTTP_PORT", "3500")
    if not port.isdecimal():
        raise LookupError(f"DAPR_HTTP_PORT is no port: {port!r}")
    headers = {"dapr-api-token": token} if (token := os.environ.get("DAPR_API_TOKEN")) else {}
    ends = time.monotonic() + _SIDECAR_SECONDS
    while True:
        connection = http.client.HTTPConnection("127.0.0.1", int(port), timeout=_SIDECAR_SECONDS)
        try:
            connection.request("GET", path, headers=headers)
            answer = connection.getresponse()
            body = answer.read()
        except (OSError, http.client.HTTPException):
            if time.monotonic() > ends:
                raise LookupError(f"no sidecar answers at 127.0.0.1:{port} (DAPR_HTTP_PORT)") from None
            time.sleep(_PAUSE_SECONDS)
            continue
        finally:
            connection.close()
        if answer.status != 200:
            raise LookupError(f"the sidecar answered {answer.status}: is there such a store and secret?")
        return json.loads(body)


_READERS: Mapping[str, Callable[[str], str]] = {
    "env": _environment,
    "file": _file,
    "kubernetes": _file,
    "systemd": _systemd,
    "dapr": _dapr,
}


class Table(BaseModel):
    """Base of a table of settings."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    variables: ClassVar[Mapping[str, str]] = {}
    """Further variables of the environment that set fields, as other programs name them."""

    def check_others(self, settings: Any) -> None:
        """Raises ValueError where the table does not fit the others."""


class SigningTable(Table):
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
        if not all(secret is None or secret for secret in (self.secret, self.previous_secret)):
            raise ValueError("the secret is empty")
        return self


def _matching(pattern: str, expected: str) -> AfterValidator:
    """Refuse a text, or a secret, of another form; None is no text."""

    def matches(text: str) -> bool:
        return re.fullmatch(pattern, text) is not None

    def check(value: Any) -> Any:
        if value is not None and not (
            has_form(value, matches) if isinstance(value, SecretStr) else matches(value)
        ):
            raise ValueError(f"expected {expected}")
        return value

    return AfterValidator(check)


def min_chars(count: int) -> AfterValidator:
    """Refuse a shorter secret."""
    return _matching(rf"(?s).{{{count},}}", f"at least {count} characters")


def http_url(example: str) -> AfterValidator:
    """Refuse anything but a URL of HTTP; the error shows `example`."""
    return _matching(r"https?://[^\s/].*", f"a URL with http:// or https://, like {example}")


def _port_is_usable(address: str | None) -> str | None:
    """Check the port of a URL, or of a host with or without one."""
    try:
        port = address and urlsplit(address if "//" in address else f"//{address}").port
    except ValueError:  # it is above 65535
        port = 0
    if port == 0:
        raise ValueError("expected a port from 1 to 65535")
    return address


_HOST_NAME = r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*"
HostName = Annotated[
    str,
    _matching(_HOST_NAME, "host names without scheme and port, like mesh.example.com"),
    AfterValidator(str.lower),
]
HostAndPort = Annotated[
    str,
    _matching(
        rf"{_HOST_NAME}(:[1-9][0-9]{{0,4}})?", "host names without scheme, like mesh.example.com or mesh:8443"
    ),
    AfterValidator(_port_is_usable),
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


def _parse_size(value: Any) -> int:
    try:
        return _BYTES.validate_python(value)
    except ValidationError:
        raise ValueError('expected bytes, or a text like "500MB" or "2GiB"') from None


Size = Annotated[int, BeforeValidator(_parse_size)]
Network = Annotated[IPv4Network | IPv6Network, BeforeValidator(ip_network)]
BrokerUrl = Annotated[
    Secret | None,
    _matching(r"mqtts?://[^\s/].*", "a URL like mqtt://user:password@127.0.0.1:1883, or with mqtts://"),
]
MqttUrl = Annotated[
    str | None,
    _matching(
        r"mqtts?://(\[[0-9A-Fa-f:.]+\]|[^\s/:@?#\[\]]+)(:\d+)?/?",
        "a URL without a user (mqtt.username), like mqtt://127.0.0.1:1883",
    ),
    AfterValidator(_port_is_usable),
]
