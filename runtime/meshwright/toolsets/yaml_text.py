"""YAML as models and projects write it, read within bounds: no aliases, no deep nesting, no dates."""

from __future__ import annotations

from typing import Any


class Unreadable(ValueError):
    """A text that is not read, with the reason as a clause."""


def read_yaml(text: str, *, max_depth: int = 50, max_values: int = 0) -> list[Any]:
    """The documents of a text, YAML or JSON. Raises Unreadable.

    Dates stay text, as in JSON. By aliases a short text can stand for a very long one: they are refused, but
    where it has at most `max_values` values with all of them written out.
    """
    import yaml

    try:
        depth = 0
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            is_start = isinstance(event, yaml.CollectionStartEvent)
            depth += is_start - isinstance(event, yaml.CollectionEndEvent)
            if isinstance(event, yaml.AliasEvent) and not max_values:
                raise Unreadable("it refers to parts of itself: write out what *names refer to")
            if depth > max_depth:
                raise Unreadable(f"it is more than {max_depth} levels deep")
        documents = list(yaml.load_all(text, Loader=_loader(max_values)))
        if max_values and _count(documents, {}, max_values) > max_values:
            raise _too_many(max_values)
        return documents
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        if isinstance(error, Unreadable):
            raise
        raise Unreadable(f"it is no YAML: {error}") from error


def _count(value: Any, counts: dict[int, int], maximum: int) -> int:
    """The number of values below one, those of aliases counted each time; over `maximum` in a circle."""
    if not isinstance(value, (dict, list)):
        return 1
    if id(value) not in counts:
        counts[id(value)] = maximum + 1  # until it is counted: whatever refers to it is below it
        inner = value.values() if isinstance(value, dict) else value
        counts[id(value)] = 1 + sum(_count(item, counts, maximum) for item in inner)
    return counts[id(value)]


def _too_many(most: int) -> Unreadable:
    return Unreadable(f"it has more than {most:,} values")


def _loader(max_values: int) -> Any:
    import yaml

    class Loader(yaml.SafeLoader):
        """SafeLoader without timestamps, which merges (`<<`) at most so many values, copies included."""

        merged = 0

        def flatten_mapping(self, node: Any) -> None:
            for key, value in node.value:
                if max_values and key.tag == "tag:yaml.org,2002:merge":
                    for inner in value.value if isinstance(value, yaml.SequenceNode) else [value]:
                        if isinstance(inner, yaml.MappingNode):
                            self.flatten_mapping(inner)
                            self.merged += len(inner.value)
                        if self.merged > max_values:
                            raise _too_many(max_values)
            super().flatten_mapping(node)

    Loader.yaml_implicit_resolvers = {
        first: [resolver for resolver in resolvers if resolver[0] != "tag:yaml.org,2002:timestamp"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    return Loader
