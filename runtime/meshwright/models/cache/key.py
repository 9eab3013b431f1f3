"""Which calls are the same: a hash of all that changes an answer, of who may read it, and of who answers."""

from __future__ import annotations

import hashlib
import json

from meshwright.models.port import ModelRequest

FORMAT = 1  # of keys and of what is kept under them
WITHOUT_EFFECT = {"user", "context", "timeout_seconds", "cache"}
"""The fields of a request that change no answer. All others count, also those that are not known here."""


def key_of(request: ModelRequest, identity: str) -> str | None:
    """The key of a call to what `identity` names: 64 hex digits, or None for what no JSON can say.

    Each tenant has keys of its own. A request's fields stand in one
    order; within a schema the order counts, since models answer in it.
    """
    try:
        whose = json.dumps([FORMAT, identity, request.context.tenant_id])
        asked = request.model_dump_json(exclude=WITHOUT_EFFECT)
    except (TypeError, ValueError, RecursionError):  # what is foreign, half a character, a circle
        return None
    return hashlib.sha256(f"{whose}\n{asked}".encode()).hexdigest()
