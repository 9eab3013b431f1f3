"""litellm_config.yaml, read and checked: what LiteLLM itself would find out late, or never say."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meshwright.errors import ConfigError

if TYPE_CHECKING:
    from yaml import Node

# What LiteLLM 1.88 reads at the top of the file; its proxy alone reads the rest after the first three.
SECTIONS = (
    "model_list",
    "router_settings",
    "litellm_settings",
    "general_settings",
    "environment_variables",
    "agent_list",
    "assistant_settings",
    "callback_settings",
    "credential_list",
    "default_vertex_config",
    "files_settings",
    "finetune_settings",
    "guardrails",
    "mcp_servers",
    "mcp_tools",
    "policies",
    "policy_attachments",
    "prompts",
    "search_tools",
    "vector_store_registry",
    "worker_registry",
)
FALLBACKS = ("fallbacks", "context_window_fallbacks", "content_policy_fallbacks")
REFERENCE = re.compile(r"os\.environ/([A-Za-z_][A-Za-z0-9_]*)")


@dataclass(frozen=True)
class LiteLLMConfig:
    """A checked configuration. References to the environment (`os.environ/NAME`) stand as written."""

    path: Path
    deployments: tuple[dict[str, Any], ...]
    router_settings: dict[str, Any]
    litellm_settings: dict[str, Any]
    lines: dict[str, int]
    """The line of each of `router_settings`, and under no name that of the section itself."""

    @property
    def groups(self) -> frozenset[str]:
        """The names that a call may give as `model`."""
        aliases = self.router_settings.get("model_group_alias") or {}
        return frozenset(deployment["model_name"] for deployment in self.deployments) | frozenset(aliases)


def read_config(path: Path) -> LiteLLMConfig:
    """Read and check the file. Raises ConfigError with file, line, and what was expected."""
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)(read_text(path))
    try:
        node = loader.get_single_node()
        value = None if node is None else loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        line = mark.line + 1 if mark else None
        raise ConfigError(f"is not YAML: {error.problem}", path=str(path), line=line) from None
    except (yaml.YAMLError, ValueError) as error:  # a character YAML forbids; a date that is none
        raise ConfigError("is not YAML", path=str(path), remedy="Save it as UTF-8 text") from error
    return Check(path, node).config(value)


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
    return list(dict.fromkeys(name for line in lines for name in REFERENCE.findall(line)))


def missing_names(value: Any, environment: Mapping[str, str]) -> set[str]:
    """The variables that a part of a configuration refers to and the environment does not set."""
    return {name for name in references(value) if not environment.get(name)}


def resolved(value: Any, environment: Mapping[str, str]) -> Any:
    """A copy of a part of a configuration, with what its references stand for."""
    if isinstance(value, dict):
        return {name: resolved(each, environment) for name, each in value.items()}
    if isinstance(value, list):
        return [resolved(each, environment) for each in value]
    match = REFERENCE.fullmatch(value) if isinstance(value, str) else None
    return environment[match[1]] if match else value


def references(value: Any) -> Iterator[str]:
    """Each variable that a part of a configuration refers to."""
    if isinstance(value, str):
        if match := REFERENCE.fullmatch(value):
            yield match[1]
    elif isinstance(value, (dict, list)):
        for each in value.values() if isinstance(value, dict) else value:
            yield from references(each)


class Check:
    """Checks what a file says, and finds the line of what is wrong."""

    def __init__(self, path: Path, root: Node | None) -> None:
        self.path = path
        self.root = root

    def config(self, value: Any) -> LiteLLMConfig:
        """Check the whole file."""
        self.expect(value, dict, "a mapping with model_list", [])
        for name in value:
            self.known(name)
        deployments = self.expect(value.get("model_list"), list, "a list of deployments", ["model_list"])
        if not deployments:
            self.fail("model_list is empty: expected at least one deployment", ["model_list"])
        for number, deployment in enumerate(deployments):
            self.deployment(deployment, ["model_list", number])
        sections = [self.section(value, name) for name in ("router_settings", "litellm_settings")]
        lines = {name: self.line_of(["router_settings", name]) for name in ("", *sections[0])}
        config = LiteLLMConfig(self.path, with_ids(deployments), sections[0], sections[1], lines)
        for section in ("router_settings", "litellm_settings"):
            self.fallbacks(value.get(section) or {}, config.groups, [section])
        return config

    def known(self, name: Any) -> None:
        """Refuse a section that LiteLLM does not read."""
        if name == "include":
            self.fail("include is read by a LiteLLM proxy alone: put the deployments into this file", [name])
        if name not in SECTIONS:
            near = get_close_matches(str(name), SECTIONS, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"expected one of {', '.join(SECTIONS[:5])}"
            self.fail(f"there is no section {name!r}: {hint}", [name])

    def section(self, value: Mapping[str, Any], name: str) -> dict[str, Any]:
        """Check and return one of the sections of settings."""
        return self.expect(value.get(name) or {}, dict, "a mapping of settings", [name])

    def deployment(self, value: Any, where: Sequence[Any]) -> None:
        """Check one deployment: its group, its model, its tags."""
        self.expect(value, dict, "a mapping with model_name and litellm_params", where)
        self.expect(value.get("model_name"), str, "the name of a group", [*where, "model_name"])
        params = self.expect(value.get("litellm_params"), dict, "a mapping", [*where, "litellm_params"])
        place = [*where, "litellm_params"]
        self.expect(params.get("model"), str, "a model like openai/gpt-5.4-mini", [*place, "model"])
        for number, tag in enumerate(
            self.expect(params.get("tags", []), list, "a list of tags", [*place, "tags"])
        ):
            self.expect(tag, str, "a tag", [*place, "tags", number])

    def fallbacks(self, settings: Mapping[str, Any], groups: frozenset[str], where: Sequence[Any]) -> None:
        """Check that every fallback leads from one group to others that there are."""
        for name in FALLBACKS:
            rules = self.expect(settings.get(name) or [], list, "a list of fallbacks", [*where, name])
            for number, rule in enumerate(rules):
                place = [*where, name, number]
                for group, others in self.expect(rule, dict, "group: [other groups]", place).items():
                    self.leads_to([group], groups, place)
                    self.leads_to(others, groups, [*place, group])
        self.leads_to(settings.get("default_fallbacks") or [], groups, [*where, "default_fallbacks"])

    def leads_to(self, names: Any, groups: frozenset[str], where: Sequence[Any]) -> None:
        """Check a list of groups."""
        for name in self.expect(names, list, "a list of groups", where):
            if name not in groups and name != "*":
                self.fail(
                    f"{where[-1]}: there is no group {name!r}; groups are {', '.join(sorted(groups))}", where
                )

    def expect(self, value: Any, kind: type, what: str, where: Sequence[Any]) -> Any:
        """Return the value if it is of the kind; else say what was expected, and where."""
        if not isinstance(value, kind) or value == "":
            found = "nothing" if value is None or value == "" else type(value).__name__
            self.fail(f"{self.label(where)}: expected {what}, found {found}", where)
        return value

    def label(self, where: Sequence[Any]) -> str:
        """The place in words: `model_list[2].litellm_params.model`."""
        steps = (f"[{step}]" if isinstance(step, int) else f".{step}" for step in where)
        return "".join(steps).removeprefix(".") or "the file"

    def fail(self, message: str, where: Sequence[Any]) -> None:
        """Raise the error, with the line of the nearest place that the file has."""
        raise ConfigError(message, path=str(self.path), line=self.line_of(where), field=self.label(where))

    def line_of(self, where: Sequence[Any]) -> int:
        """The line of a place, or of the nearest one above it that the file has."""
        node, line = self.root, 1
        for step in where:
            found = child(node, step)
            if found is None:
                break
            line, node = found
        return line


def child(node: Node | None, step: Any) -> tuple[int, Node] | None:
    """The line and the node of one step down in a file."""
    import yaml

    if isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
        return node.value[step].start_mark.line + 1, node.value[step]
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.value == str(step):
                return key.start_mark.line + 1, value
    return None
