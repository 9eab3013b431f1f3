"""Reflection after a run: at most one lesson for later ones, by one call of the compression model."""

from __future__ import annotations

from collections.abc import Sequence

from meshwright.core.errors import MeshError
from meshwright.models.port import ChatMessage
from meshwright.run.calls import ModelCalls
from meshwright.run.memories import NewMemory, remembered
from meshwright.run.state import RunState
from meshwright.run.window import material

_MATERIAL_TOKENS = 4_000
_MAX_TOKENS = 200
_MAX_CHARS = 600


async def reflect(state: RunState, calls: ModelCalls, messages: Sequence[ChatMessage]) -> None:
    """Remember one lesson of a run for its agent, where a model finds one; a step of the journal.

    It is quarantined where the run has read text from outside. A run succeeds without its lesson.
    """
    await state.journal.step("reflect", {}, lambda: _reflected(state, calls, messages))


async def _reflected(
    state: RunState, calls: ModelCalls, messages: Sequence[ChatMessage]
) -> dict[str, str | None]:
    """The lesson and what came of it, for people who look at the step."""
    lesson, error = await state.services.context.reflect(
        material(messages, _MATERIAL_TOKENS),
        max_tokens=_MAX_TOKENS,
        context=calls.context(state.journal.inside),
    )
    if lesson is None:
        return {"lesson": None, "result": error}
    if len(lesson) > _MAX_CHARS:
        return {"lesson": None, "result": f"it has {len(lesson):,} characters"}
    try:
        result = await remembered(state, NewMemory(lesson, "agent", "procedure"), has_asked=True)
    except MeshError as failed:  # as of a database that is away: the answer matters more
        result = str(failed)
    return {"lesson": lesson, "result": result}
