"""Signed cards: JWS with the mesh's Ed25519 key over the canonical JSON of a card, as section 8.4 has it.

https://www.rfc-editor.org/rfc/rfc7515, https://www.rfc-editor.org/rfc/rfc8785
"""

from __future__ import annotations

import base64
import hashlib
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

from meshwright.engine.events.heads import Signer

JWKS_PATH = "/a2a/jwks.json"
_MIN_EXPONENT, _MAX_EXPONENT = -7, 21  # between which JavaScript writes numbers without one


class CardSigner:
    """Signs cards with the key that signs heads of the event log."""

    def __init__(self, folder: Path) -> None:
        self._signer = Signer(folder)

    def sign(self, card: dict[str, Any], base_url: str) -> dict[str, Any]:
        """Returns a card with its signature. Raises ConfigError where the key cannot be used."""
        header = {"alg": "EdDSA", "typ": "JOSE", "kid": self._key_id(), "jku": f"{base_url}{JWKS_PATH}"}
        protected = _base64(canonical_json(header))
        payload = _base64(canonical_json(_without_empty(card)))
        signature = self._signer.sign_bytes(f"{protected}.{payload}".encode())
        return {**card, "signatures": [{"protected": protected, "signature": _base64(signature)}]}

    def keys(self) -> dict[str, Any]:
        """Returns the public key as a set of JSON Web Keys."""
        return {"keys": [{**self._key(), "kid": self._key_id(), "use": "sig", "alg": "EdDSA"}]}

    def _key(self) -> dict[str, Any]:
        return {"crv": "Ed25519", "kty": "OKP", "x": _base64(self._signer.public_bytes())}

    def _key_id(self) -> str:
        """The thumbprint of the key (RFC 7638)."""
        return _base64(hashlib.sha256(canonical_json(self._key())).digest())


def canonical_json(value: Any) -> bytes:
    """Returns a document as the JSON Canonicalization Scheme writes it (RFC 8785)."""
    return _render(value).encode()


def _render(value: Any) -> str:
    if isinstance(value, dict):
        names = sorted(value, key=lambda name: name.encode("utf-16-be"))
        return "{" + ",".join(f"{_render(name)}:{_render(value[name])}" for name in names) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(map(_render, value)) + "]"
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return _render_number(float(value))
    return json.dumps(value, ensure_ascii=False)


def _render_number(number: float) -> str:
    """A number as JavaScript writes it; each is a double there."""
    sign, digits, exponent = Decimal(repr(number)).normalize().as_tuple()
    assert isinstance(exponent, int), "JSON has no NaN"
    text, point = "".join(map(str, digits)), len(digits) + exponent
    if number == 0:
        return "0"
    if _MIN_EXPONENT < point - 1 < _MAX_EXPONENT:
        whole, part = text[: max(point, 0)].ljust(point, "0"), "0" * -point + text[max(point, 0) :]
        rendered = f"{whole or '0'}.{part}" if part else whole
    else:
        part = f".{text[1:]}" if len(text) > 1 else ""
        rendered = f"{text[0]}{part}e{point - 1:+d}"
    return f"-{rendered}" if sign else rendered


def _without_empty(value: Any) -> Any:
    """The document without fields and items that are empty, which are defaults of the protocol."""
    if isinstance(value, dict):
        cleaned = {name: _without_empty(item) for name, item in value.items()}
        return {name: item for name, item in cleaned.items() if item is not None} or None
    if isinstance(value, (list, tuple)):
        return [item for item in map(_without_empty, value) if item is not None] or None
    return None if value == "" else value


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
