"""What a run tells of answers that do not fit the shape that was asked for."""

from __future__ import annotations

from pydantic import BaseModel

from meshwright.models.port import ModelReply, StructureInvalid
from meshwright.models.structure import read_answer
from meshwright.tools.tool import cut
from meshwright.work.journal import Told

MAX_RAW_CHARS = 4_000


def tell_misfit(shape: type[BaseModel] | None, reply: ModelReply) -> list[Told]:
    """What is wrong with a reply that is to be an answer in a shape, and its text; nothing where it fits."""
    if shape is None or reply.tool_calls:
        return []
    try:
        read_answer(shape, reply)
    except StructureInvalid as error:
        raw = cut(error.raw, MAX_RAW_CHARS)
        return [("structure.invalid", {"shape": shape.__name__, "error": error.message, "raw": raw})]
    return []
