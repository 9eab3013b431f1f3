"""How a delivery proves who sent it, one function for each scheme; all compare in constant time.

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
from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from meshwright.edges.webhooks.kinds import Kind

STANDARD_PREFIX = "whsec_"
_MIN_KEY_BYTES, _MAX_KEY_BYTES = 24, 64  # of a standard secret
_TOLERANCE_SECONDS = 300  # between a timestamp and our clock


class _Verify(Protocol):
    def __call__(
        self, kind: Kind, secret: str, headers: Mapping[str, str], body: bytes, now: float
    ) -> bool: ...


def is_signed(kind: Kind, secret: str, headers: Mapping[str, str], body: bytes, now: float) -> bool:
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


def _same(given: str, expected: str) -> bool:
    return hmac.compare_digest(given.encode(), expected.encode())


def _hmac(kind: Kind, secret: str, headers: Mapping[str, str], body: bytes, now: float) -> bool:
    given = next((headers[name] for name in kind.headers if name in headers), "")
    if kind.timestamp_header:
        timestamp = headers.get(kind.timestamp_header, "")
        if not _is_recent(timestamp, now):
            return False
        body = b"%s%s:%s" % (kind.version.encode(), timestamp.encode(), body)
    digest = hmac.digest(secret.encode(), body, hashlib.sha256)
    in_hex, in_base64 = kind.prefix + digest.hex(), kind.prefix + base64.b64encode(digest).decode()
    return _same(given, in_hex) | _same(given, in_base64)


def _standard(kind: Kind, secret: str, headers: Mapping[str, str], body: bytes, now: float) -> bool:
    timestamp = headers.get("webhook-timestamp", "")
    if not _is_recent(timestamp, now):
        return False
    expected = standard_signature(standard_key(secret), headers.get("webhook-id", ""), int(timestamp), body)
    given = headers.get("webhook-signature", "").split(" ")
    return any(_same(signature, expected) for signature in given)


def _token(kind: Kind, secret: str, headers: Mapping[str, str], body: bytes, now: float) -> bool:
    return _same(next((headers[name] for name in kind.headers if name in headers), ""), secret)


def _bearer(kind: Kind, secret: str, headers: Mapping[str, str], body: bytes, now: float) -> bool:
    scheme, _, token = headers.get("authorization", "").partition(" ")
    return (scheme.lower() == "bearer") & _same(token.strip(), secret)


def _basic(kind: Kind, secret: str, headers: Mapping[str, str], body: bytes, now: float) -> bool:
    scheme, _, encoded = headers.get("authorization", "").partition(" ")
    try:
        given = base64.b64decode(encoded.strip(), validate=True)
    except ValueError:  # also for a text that is not ASCII
        given = b""
    return (scheme.lower() == "basic") & hmac.compare_digest(given, secret.encode())


_SCHEMES: Mapping[str, _Verify] = {
    "hmac": _hmac,
    "standard": _standard,
    "token": _token,
    "bearer": _bearer,
    "basic": _basic,
}
