"""Deliveries of other services: the senders sign them, and need no key of the mesh.

There is one function for each scheme of signatures; all compare in constant time.

https://docs.github.com/webhooks/using-webhooks/validating-webhook-deliveries
https://docs.gitlab.com/user/project/integrations/webhooks
https://grafana.com/docs/grafana/latest/alerting/configure-notifications/manage-contact-points/integrations/webhook-notifier
https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from meshwright.core.errors import ConfigError, InvalidInput, Unauthenticated
from meshwright.edges.bodies import MalformedJson, parse_json
from meshwright.engine.events.audit import Audit
from meshwright.mesh.mesh import Mesh

STANDARD_PREFIX = "whsec_"
_MIN_KEY_BYTES, _MAX_KEY_BYTES = 24, 64  # of a standard secret
_TOLERANCE_SECONDS = 300  # between a timestamp and our clock


@dataclass(frozen=True, slots=True)
class SignatureKind:
    """The way in which a service signs its deliveries. `headers` with the signature are tried in order."""

    scheme: str = "hmac"
    headers: tuple[str, ...] = ()
    prefix: str = ""
    timestamp_header: str = ""
    version: str = ""
    """The text before the timestamp in the signed bytes."""


class Proof(NamedTuple):
    """One secret that a delivery may be signed with, and how. During a rotation there are two."""

    kind: SignatureKind
    secret: str


def make_proof(table: str, kind: SignatureKind, secret: str) -> Proof:
    """Returns a proof by a secret of a table of settings. Raises ConfigError where it is none of its kind."""
    if kind.scheme == "standard":
        try:
            standard_key(secret)
        except ValueError as error:
            raise ConfigError(f"[{table}] secret: {error}", field="webhooks") from None
    return Proof(kind, secret)


class Gate:
    """Lets deliveries in that are signed; why others are refused is for the audit trail alone."""

    def __init__(self, mesh: Mesh, edge: str, table: str) -> None:
        self._mesh = mesh
        self._edge = edge
        self._table = table

    def check(
        self, name: str, proofs: Sequence[Proof], headers: Mapping[str, str], body: bytes, address: str
    ) -> None:
        """Raises Unauthenticated for a delivery to `name` that fits none of the proofs."""
        now = self._mesh.runtime.clock.now().timestamp()
        if not any(is_signed(kind, secret, headers, body, now) for kind, secret in proofs):
            raise self.refused(name, address, "the signature or token is missing or wrong")

    def refused(self, name: str, address: str, reason: str) -> Unauthenticated:
        """Returns the error for a delivery that is not to be trusted."""
        self._mesh.get(Audit).record_misuse(reason, address=address, edge=f"{self._edge}:{name}")
        return Unauthenticated(
            f"The delivery to {name!r} is not signed as the mesh expects",
            remedy=f"Set the same secret at the sender and in [{self._table}]; the audit trail says why",
        )


class UnsupportedType(InvalidInput):
    """The delivery is not JSON."""

    status = 415


def json_object(headers: Mapping[str, str], body: bytes, max_depth: int) -> dict[str, Any]:
    """Returns the body of a delivery. Raises UnsupportedType, MalformedJson, TooLarge."""
    media_type = headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json" and not media_type.endswith("+json"):
        raise UnsupportedType(
            f"The delivery is {media_type or 'of no type'}, not application/json",
            remedy="Choose application/json as the content type of the webhook, where it is set up",
            field="Content-Type",
        )
    document = parse_json(body, max_depth)
    if not isinstance(document, dict):
        raise MalformedJson("The body is no JSON object", remedy="Send one", field="body")
    return document


# Signatures


class _Verify(Protocol):
    def __call__(
        self, kind: SignatureKind, secret: str, headers: Mapping[str, str], body: bytes, now: float
    ) -> bool: ...


def is_signed(kind: SignatureKind, secret: str, headers: Mapping[str, str], body: bytes, now: float) -> bool:
    """Whether a delivery is from somebody who knows the secret. Headers have lower-case names."""
    return _SCHEMES[kind.scheme](kind, secret, headers, body, now)


def standard_key(secret: str) -> bytes:
    """Returns the key of a secret of Standard Webhooks. Raises ValueError."""
    try:
        key = base64.b64decode(secret.removeprefix(STANDARD_PREFIX), validate=True)
    except binascii.Error:
        key = b""
    if not secret.startswith(STANDARD_PREFIX) or not _MIN_KEY_BYTES <= len(key) <= _MAX_KEY_BYTES:
        raise ValueError(
            f"a secret of Standard Webhooks is {STANDARD_PREFIX} and {_MIN_KEY_BYTES} to {_MAX_KEY_BYTES} "
            f"bytes in base64: {STANDARD_PREFIX}$(openssl rand -base64 32)"
        )
    return key


def standard_signature(key: bytes, message_id: str, timestamp: int, body: bytes) -> str:
    """Returns the `webhook-signature` of a message of Standard Webhooks."""
    signed = b"%s.%d.%s" % (message_id.encode(), timestamp, body)
    return f"v1,{base64.b64encode(hmac.digest(key, signed, 'sha256')).decode()}"


def _is_recent(timestamp: str, now: float) -> bool:
    return timestamp.isdecimal() and len(timestamp) < 16 and abs(now - int(timestamp)) <= _TOLERANCE_SECONDS


def _same(signature: str, expected: str) -> bool:
    return hmac.compare_digest(signature.encode(), expected.encode())


def _hmac(kind: SignatureKind, secret: str, headers: Mapping[str, str], body: bytes, now: float) -> bool:
    signature = next((headers[name] for name in kind.headers if name in headers), "")
    if kind.timestamp_header:
        timestamp = headers.get(kind.timestamp_header, "")
        if not _is_recent(timestamp, now):
            return False
        body = b"%s%s:%s" % (kind.version.encode(), timestamp.encode(), body)
    digest = hmac.digest(secret.encode(), body, hashlib.sha256)
    in_hex, in_base64 = kind.prefix + digest.hex(), kind.prefix + base64.b64encode(digest).decode()
    return _same(signature, in_hex) | _same(signature, in_base64)


def _standard(kind: SignatureKind, secret: str, headers: Mapping[str, str], body: bytes, now: float) -> bool:
    timestamp = headers.get("webhook-timestamp", "")
    if not _is_recent(timestamp, now):
        return False
    expected = standard_signature(standard_key(secret), headers.get("webhook-id", ""), int(timestamp), body)
    signatures = headers.get("webhook-signature", "").split(" ")
    return any(_same(signature, expected) for signature in signatures)


def _token(kind: SignatureKind, secret: str, headers: Mapping[str, str], body: bytes, now: float) -> bool:
    return _same(next((headers[name] for name in kind.headers if name in headers), ""), secret)


def _bearer(kind: SignatureKind, secret: str, headers: Mapping[str, str], body: bytes, now: float) -> bool:
    scheme, _, token = headers.get("authorization", "").partition(" ")
    return (scheme.lower() == "bearer") & _same(token.strip(), secret)


def _basic(kind: SignatureKind, secret: str, headers: Mapping[str, str], body: bytes, now: float) -> bool:
    scheme, _, encoded = headers.get("authorization", "").partition(" ")
    try:
        credentials = base64.b64decode(encoded.strip(), validate=True)
    except ValueError:  # also for a text that is not ASCII
        credentials = b""
    return (scheme.lower() == "basic") & hmac.compare_digest(credentials, secret.encode())


_SCHEMES: Mapping[str, _Verify] = {
    "hmac": _hmac,
    "standard": _standard,
    "token": _token,
    "bearer": _bearer,
    "basic": _basic,
}
