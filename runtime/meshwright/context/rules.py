"""Which rules hold between a sender and a receiver: what is left out, kept, and how much may be said."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from functools import cached_property, partial
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from meshwright.context.request import CompressRequest
from meshwright.messages import ID_PATTERN

ANY = "*"
OPTIONAL_FIELDS = tuple(
    name for name, field in CompressRequest.model_fields.items() if not field.is_required()
)
INTERNAL_KEYS = (
    *(
        "id",
        "memory_id",
        "message_id",
        "task_id",
        "thread_id",
        "tenant_id",
        "user_id",
        "agent_id",
        "scope_id",
    ),
    *("score", "relevance", "similarity", "distance", "rank", "embedding"),
    *("timestamp", "time", "ts", "created_at", "updated_at", "accessed_at", "expires_at"),
)
INTERNAL = tuple(f"{ANY}.{key}" for key in INTERNAL_KEYS)
"""What the machinery adds to items, and no receiver needs: ids, scores and times."""

VERDICT = None  # the key, in a tree of paths, of whether what stands there is kept: no JSON has it
Tree = Mapping[str | None, Any]
"""Paths by their segments, each with a verdict or none of its own; the longest path decides."""


def _checked(path: str, fields: Collection[str]) -> str:
    field, *rest = path.split(".")
    if not all((field, *rest)) or (field == ANY and not rest):
        raise ValueError(f"{path!r} is not a dotted path such as sender_memories.score or *.score")
    if field != ANY and field not in fields:
        raise ValueError(f"{path!r} must begin with one of {', '.join(fields)}, or *")
    return path


StripPath = Annotated[str, AfterValidator(partial(_checked, fields=OPTIONAL_FIELDS))]
PreservePath = Annotated[str, AfterValidator(partial(_checked, fields=tuple(CompressRequest.model_fields)))]
Party = Annotated[str, Field(pattern=rf"^\*$|{ID_PATTERN}")]


class Rule(BaseModel):
    """How a request from `sender` to `receiver` (each an agent's id, or `*`) is compressed.

    `strip_fields`: dotted paths of what is left out; `*` stands for any field of the request, and a path
    through a list means each of its items. `preserve_fields`: paths of what is kept where a shorter path
    leaves it out, is not counted against a maximum, and must stand word for word in what a model makes of
    the text. `token_ceiling`: a text of more tokens goes to the compression model.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    sender: Party = ANY
    receiver: Party = ANY
    strip_fields: tuple[StripPath, ...] = INTERNAL
    preserve_fields: tuple[PreservePath, ...] = ("constraints",)
    max_memories: int = Field(default=10, ge=0)
    max_conversation_messages: int = Field(default=10, ge=0)
    token_ceiling: int = Field(default=1000, gt=0)

    @cached_property
    def paths(self) -> Tree:
        """The paths to leave out and to keep, field by field of a request."""
        tree: dict[str | None, Any] = {}
        for keep, paths in ((False, self.strip_fields), (True, self.preserve_fields)):
            for field, *rest in (path.split(".") for path in paths):
                for name in OPTIONAL_FIELDS if field == ANY else (field,):
                    _decide(tree, [name, *rest], keep=keep)
        return tree


class Rules:
    """The rules of a mesh; of those that match a sender and a receiver the most specific holds.

    Both named comes before the receiver alone named, that before the sender alone, and last comes `*` to
    `*`, which is added with its defaults where it is missing. Raises ValueError for two rules of one pair.
    """

    def __init__(self, rules: Iterable[Rule] = ()) -> None:
        self._rules: dict[tuple[str, str], Rule] = {}
        for rule in rules:
            pair = (rule.sender, rule.receiver)
            if pair in self._rules:
                raise ValueError(
                    f"there are two context rules from {rule.sender} to {rule.receiver}: keep one"
                )
            self._rules[pair] = rule
        self._general = self._rules.get((ANY, ANY)) or Rule()

    def find(self, sender: str, receiver: str) -> Rule:
        """The rule that holds from this sender to this receiver."""
        rules = self._rules
        return (
            rules.get((sender, receiver))
            or rules.get((ANY, receiver))
            or rules.get((sender, ANY))
            or self._general
        )


DEFAULT_RULES = Rules(
    [
        Rule(sender="project-manager", receiver="architect-agent", token_ceiling=800),
        Rule(sender="project-manager", receiver="researcher-agent", token_ceiling=600),
        Rule(token_ceiling=1000),
    ]
)
"""The rules of a mesh that sets none."""


def strip(value: Any, tree: Tree, dropped: list[str], *, keep: bool = True) -> Any:
    """What the tree keeps of a value, None for nothing; the texts left out are added to `dropped`."""
    keep = tree.get(VERDICT, keep)
    if isinstance(value, dict):
        inner = {key: strip(each, tree.get(key, {}), dropped, keep=keep) for key, each in value.items()}
        return {key: each for key, each in inner.items() if each is not None} or None
    if isinstance(value, list):
        items = [strip(each, tree, dropped, keep=keep) for each in value]
        return [each for each in items if each is not None] or None
    if not keep and value is not None:
        dropped.append(str(value))
    return value if keep else None


def _decide(tree: dict[str | None, Any], segments: list[str], *, keep: bool) -> None:
    for segment in segments:
        tree = tree.setdefault(segment, {})
    tree[VERDICT] = keep
