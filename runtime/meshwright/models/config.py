"""litellm_config.yaml, read and checked: what LiteLLM itself would find out late, or never say."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meshwright.errors import ConfigError
from meshwright.models.checks import FALLBACKS as FALLBACKS
from meshwright.models.checks import SETTINGS, Check, groups_of

_YAML_TAG = "tag:yaml.org,2002:"
_CORE = frozenset(
    f"{_YAML_TAG}{kind}" for kind in ("bool", "float", "int", "map", "merge", "null", "seq", "str")
)
"""The kinds of values that a file may have; a date stays the text that it is."""
_REFERENCE = re.compile(r"os\.environ/([A-Za-z_][A-Za-z0-9_]*)")


@dataclass(frozen=True)
class LiteLLMConfig:
    """A checked configuration. References to the environment (`os.environ/NAME`) stand as written."""

    path: Path
    deployments: tuple[dict[str, Any], ...]
    router_settings: dict[str, Any]
    litellm_settings: dict[str, Any]
    lines: dict[str, int]
    """The line of each of `router_settings`, and under no name that of the section itself."""
    warnings: tuple[ConfigError, ...] = ()
    """What the file may say, and hardly means."""

    @property
    def groups(self) -> frozenset[str]:
        """The names that a call may give as `model`."""
        return groups_of(self.deployments, self.router_settings)


def read_config(path: Path) -> LiteLLMConfig:
    """Read and check the file. Raises ConfigError with file, line, and what was expected."""
    import yaml

    loader = _loader_of(read_text(path))
    try:
        node = loader.get_single_node()
        value = None if node is None else loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        line = mark.line + 1 if mark else None
        raise ConfigError(f"is not YAML: {error.problem}", path=str(path), line=line) from None
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        # A character that YAML forbids, or a list that holds itself; the loader tells of all others.
        raise ConfigError("is not YAML", path=str(path), line=1, remedy="Save it as UTF-8 text") from error
    check = Check(path, node)
    content = check.file(value)
    router, shared = (content.get(name) or {} for name in SETTINGS)
    lines = {name: check.line_of(["router_settings", name]) for name in ("", *router)}
    deployments = with_ids(content["model_list"])
    return LiteLLMConfig(path, deployments, router, shared, lines, tuple(check.warnings))


def _loader_of(text: str) -> Any:
    """Reads plain YAML, with anchors and merge keys, but without dates and tags."""
    import yaml

    base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    resolvers = base.yaml_implicit_resolvers

    class CoreLoader(base):
        """Knows the kinds of _CORE, and tells of each value that PyYAML cannot make with its line."""

        yaml_implicit_resolvers = {  # noqa: RUF012 - as PyYAML has it
            first: [(tag, pattern) for tag, pattern in known if tag in _CORE]
            for first, known in resolvers.items()
        }

        def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
            if node.tag not in _CORE:
                problem = f"the tag {node.tag.replace(_YAML_TAG, '!!')} is not allowed: write the plain value"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)
            try:
                return super().construct_object(node, deep)
            except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
                problem = f"{str(node.value)[:80]!r} is no plain value"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark) from error

    return CoreLoader(text)


def read_text(path: Path) -> str:
    """The file's text. Raises ConfigError."""
    try:
        return path.read_text("utf-8")
    except FileNotFoundError:
        remedy = "Write one, or name it by the setting litellm_config"
        raise ConfigError("there is no such file", path=str(path), remedy=remedy) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot be read: {type(error).__name__}", path=str(path)) from error


def with_ids(deployments: Sequence[dict[str, Any]]) -> tuple[dict[str, Any], ...]:
    """The deployments, each with an id that replies name it by: `default/openai/gpt-5.4-mini`, `...#2`.

    Without one LiteLLM makes up a hash, which changes with the key.
    """
    taken: set[str] = set()
    named = []
    for each in deployments:
        info = each.get("model_info") or {}
        own = info.get("id") or f"{each['model_name']}/{each['litellm_params']['model']}"
        names = itertools.chain([str(own)], (f"{own}#{number}" for number in itertools.count(2)))
        unique = next(name for name in names if name not in taken)
        taken.add(unique)
        named.append({**each, "model_info": {**info, "id": unique}})
    return tuple(named)


def names_in(text: str) -> list[str]:
    """The environment's variables that a configuration refers to, each once, in the order of the file."""
    lines = (line.split("#", 1)[0] for line in text.splitlines())
    return list(dict.fromkeys(name for line in lines for name in _REFERENCE.findall(line)))


def missing_names(value: Any, environment: Mapping[str, str]) -> set[str]:
    """The variables that a part of a configuration refers to and the environment does not set."""
    return {name for name in _references(value) if not environment.get(name)}


def resolved(value: Any, environment: Mapping[str, str]) -> Any:
    """A copy of a part of a configuration, with what its references stand for."""
    if isinstance(value, dict):
        return {name: resolved(each, environment) for name, each in value.items()}
    if isinstance(value, list):
        return [resolved(each, environment) for each in value]
    match = _REFERENCE.fullmatch(value) if isinstance(value, str) else None
    return environment[match[1]] if match else value


def _references(value: Any) -> Iterator[str]:
    """Each variable that a part of a configuration refers to."""
    if isinstance(value, str):
        if match := _REFERENCE.fullmatch(value):
            yield match[1]
    elif isinstance(value, (dict, list)):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _references(each)
