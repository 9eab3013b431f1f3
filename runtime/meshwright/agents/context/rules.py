"""The rules of contexts: what a sender passes on to a receiver, and how much of it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from meshwright.core.errors import nearest
from meshwright.core.ids import ID_PATTERN
from meshwright.core.settings.forms import Table

ANY = "*"
FIELDS = (
    "priority",
    "workflow_state",
    "sender_memories",
    "sender_questions",
    "conversation_snippet",
    "constraints",
    "known_failures",
)
"""The fields of a request that rules may name: all that are optional."""

_MAX_ITEMS = 200  # of one list of a request
_MAX_TOKENS = 100_000  # a request has no more characters
_OWNERS = ("memory", "message", "task", "thread", "tenant", "user", "agent", "scope")
_IDS = ("id", *(f"{name}_id" for name in _OWNERS))
_SCORES = ("score", "relevance", "similarity", "distance", "rank", "embedding")
_TIMES = ("timestamp", "time", "ts", "created_at", "updated_at", "accessed_at", "expires_at")
_INTERNAL = tuple(f"{ANY}.{key}" for key in (*_IDS, *_SCORES, *_TIMES))
"""Fields that the mesh adds to items, and no receiver needs: ids, scores and times."""

_VERDICT = None  # the key, in a tree of paths, of whether what stands there is kept: no JSON has it
_Tree = Mapping[str | None, Any]
"""Paths by their segments, each with a verdict or none of its own; the longest path decides."""


def _agent(agent_id: str) -> str:
    if agent_id != ANY and not re.fullmatch(ID_PATTERN, agent_id):
        raise ValueError('expected the id of an agent, or "*" for any')
    return agent_id


def _path(path: str) -> str:
    first, *rest = path.split(".")
    if first not in (ANY, *FIELDS):
        near = nearest(first, FIELDS) or f"one of {', '.join((ANY, *FIELDS))}"
        raise ValueError(f"expected a path that begins with {near}")
    if not all(rest):
        raise ValueError("expected a path like sender_memories.meta.source")
    return path


_Agent = Annotated[str, AfterValidator(_agent)]
_Path = Annotated[str, AfterValidator(_path)]


class ContextRule(Table):
    """One of [[context.rules]]: what of a context from `sender` to `receiver` is passed on, and how much."""

    sender: _Agent = ANY
    """The agent that knows it, `orchestrator` where none delegates, or the sender of `POST /compress`."""
    receiver: _Agent = ANY
    """The agent that it is for."""
    strip_fields: tuple[_Path, ...] = ()
    """Dotted paths of what is left out, beside ids, scores and times; `*` stands for any field of the
    request, and a path through a list means each of its items."""
    preserve_fields: tuple[_Path, ...] = ("constraints",)
    """Dotted paths of what is kept where a shorter path leaves it out, is not counted against a maximum, and
    may not be reworded by a model."""
    max_memories: int = Field(default=10, ge=0, le=_MAX_ITEMS)
    """The best by their score, or the first."""
    max_conversation_messages: int = Field(default=10, ge=0, le=_MAX_ITEMS)
    """The latest."""
    token_ceiling: int = Field(default=1_000, ge=1, le=_MAX_TOKENS)
    """Tokens above which the compression model is to shorten the text."""

    @cached_property
    def paths(self) -> _Tree:
        """The paths to leave out and to keep, field by field of a request."""
        tree: dict[str | None, Any] = {}
        for keep, paths in ((False, (*_INTERNAL, *self.strip_fields)), (True, self.preserve_fields)):
            for first, *rest in (path.split(".") for path in paths):
                for name in FIELDS if first == ANY else (first,):
                    branch = tree
                    for segment in (name, *rest):
                        branch = branch.setdefault(segment, {})
                    branch[_VERDICT] = keep
        return tree


class Rules:
    """The rules of a mesh. The most specific match of a sender and a receiver holds.

    Both named comes before the receiver alone named, that before the sender alone, and last comes `*` to
    `*`, which is added with its defaults where it is missing.
    """

    def __init__(self, rules: Iterable[ContextRule] = ()) -> None:
        self._rules = {(ANY, ANY): ContextRule(), **{(rule.sender, rule.receiver): rule for rule in rules}}

    def find(self, sender: str, receiver: str) -> ContextRule:
        """The rule that holds from this sender to this receiver."""
        for pair in ((sender, receiver), (ANY, receiver), (sender, ANY)):
            if pair in self._rules:
                return self._rules[pair]
        return self._rules[ANY, ANY]


_DEFAULTS = (
    ContextRule(sender="project-manager", receiver="architect-agent", token_ceiling=800),
    ContextRule(sender="project-manager", receiver="researcher-agent", token_ceiling=600),
)


def with_defaults(rules: Iterable[ContextRule]) -> Rules:
    """The rules of a mesh that sets these: each takes the place of a default one for the same pair."""
    return Rules((*_DEFAULTS, *rules))


DEFAULT_RULES = with_defaults(())
"""The rules of a mesh that sets none."""


def strip(value: Any, tree: _Tree, dropped: list[str], *, keep: bool = True) -> Any:
    """The parts of a value that the tree keeps, or None; the texts left out are added to `dropped`."""
    keep = tree.get(_VERDICT, keep)
    if isinstance(value, dict):
        inner = {key: strip(part, tree.get(key, {}), dropped, keep=keep) for key, part in value.items()}
        return {key: part for key, part in inner.items() if part is not None} or None
    if isinstance(value, list):
        items = [strip(item, tree, dropped, keep=keep) for item in value]
        return [item for item in items if item is not None] or None
    if not keep and value is not None:
        dropped.append(str(value))
    return value if keep else None
