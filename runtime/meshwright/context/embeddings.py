"""Vectors of texts, by a model of embeddings: texts that mean the same are near, whatever their words are.

A vector has the length 1, in single precision. Its signs, a bit for each number, are compared at once as one
large number, which finds the vectors that are worth to be compared in full.
"""

from __future__ import annotations

import logging
from array import array
from collections.abc import Callable, Sequence
from math import isfinite, sqrt
from operator import mul
from typing import NamedTuple

from meshwright.core.errors import MeshError
from meshwright.models.port import CallContext, Model, ModelReply, ModelRequest

_MAX_DIMENSIONS = 4096
_MAX_CHARS = 4000
_USER = "memory"
_logger = logging.getLogger(__name__)


class Embedded(NamedTuple):
    """The vectors of texts, in their order, and the name of the model that made them."""

    model: str
    vectors: list[array[float]]


class Embedder:
    """Has texts embedded by a group of deployments, whose calls are in the ledger like all others."""

    def __init__(self, group: str, model: Callable[[], Model | None]) -> None:
        self.group = group
        self._model = model
        self._is_away = False

    async def embed(self, texts: Sequence[str], seconds: float, context: CallContext) -> Embedded | None:
        """The vectors of texts; None while no model makes them, which the log says once."""
        try:
            embedded = await self._attempt(texts, seconds, context)
        except MeshError as error:
            if not self._is_away:
                _logger.warning("memories are recalled by their words alone: %s", error)
            self._is_away = True
            return None
        self._is_away = False
        return embedded

    async def _attempt(self, texts: Sequence[str], seconds: float, context: CallContext) -> Embedded:
        model = self._model()
        if model is None:
            raise MeshError("This mesh has no model", remedy="Leave context.embedding_model empty")
        request = ModelRequest(
            model=self.group,
            messages=(),
            user=context.agent_id or _USER,
            context=context.model_copy(update={"purpose": _USER}),
            inputs=tuple(text[:_MAX_CHARS] for text in texts),
            timeout_seconds=seconds,
            cache=False,
        )
        reply = await model.complete(request)
        return Embedded(reply.model, [_vector(numbers, reply) for numbers in reply.embeddings])


def _vector(numbers: Sequence[float], reply: ModelReply) -> array[float]:
    length = sqrt(sum(number * number for number in numbers))
    if not length > 0 or not isfinite(length) or len(numbers) > _MAX_DIMENSIONS:
        raise MeshError(
            f"{reply.model} made a vector of {len(numbers):,} numbers and the length {length:g}",
            remedy=f"Name a model of at most {_MAX_DIMENSIONS:,} dimensions in context.embedding_model",
        )
    return array("f", [number / length for number in numbers])


def signs_of(vector: array[float]) -> bytes:
    """A bit for each number of a vector: whether it is above 0."""
    bits = "".join("1" if number > 0 else "0" for number in vector)
    return int(bits, 2).to_bytes((len(bits) + 7) // 8, "big")


def apart(signs: bytes, other: bytes) -> int:
    """How many signs of two vectors differ."""
    return (int.from_bytes(signs, "big") ^ int.from_bytes(other, "big")).bit_count()


def likeness(vector: array[float], other: bytes) -> float:
    """The cosine of a vector and a stored one: 1 for the same direction; 0 where their sizes differ."""
    if len(other) != len(vector) * vector.itemsize:
        return 0.0
    return sum(map(mul, vector, array("f", other)))
