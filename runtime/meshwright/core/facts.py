"""Facts: the fields that a viewer without contents sees. A field that nobody marks is hidden.

class TaskWaiting(Payload, type="task.waiting"):
    key: Fact[str]
    asked: str = ""
"""

from __future__ import annotations

from functools import lru_cache
from typing import Annotated, Any, TypeVar, get_type_hints

_FactT = TypeVar("_FactT")
_MARK = object()
Fact = Annotated[_FactT, _MARK]
"""Marks a field as a fact: `key: Fact[str]`."""


@lru_cache(maxsize=1024)
def facts_of(kind: type[Any]) -> frozenset[str]:
    """The names of the fields of a class that are marked."""
    hints = get_type_hints(kind, include_extras=True)
    return frozenset(name for name, hint in hints.items() if _MARK in getattr(hint, "__metadata__", ()))
