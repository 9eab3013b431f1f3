"""What is wrong in a litellm_config.yaml, each with its line and what to do."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from meshwright.errors import ConfigError
from meshwright.models.names import SETTINGS, wrong_name
from meshwright.money import MAX_DOLLARS, MILLION

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
PRICE = re.compile(r"(^|_)cost(_|$)")
MAX_PRICE = int(MAX_DOLLARS / MILLION)  # dollars per token
FALLBACKS = ("fallbacks", "context_window_fallbacks", "content_policy_fallbacks")


class Check:
    """Checks what a file says, and finds the line of what is wrong."""

    def __init__(self, path: Path, root: Node | None) -> None:
        self.path = path
        self.root = root

    def file(self, value: Any) -> dict[str, Any]:
        """Check the whole file, and return what it holds."""
        content: dict[str, Any] = self.expect(value, dict, "a mapping with model_list", [])
        for name in content:
            self.known(name)
        deployments = self.expect(content.get("model_list"), list, "a list of deployments", ["model_list"])
        if not deployments:
            self.fail("model_list is empty: expected at least one deployment", ["model_list"])
        for number, deployment in enumerate(deployments):
            self.deployment(deployment, ["model_list", number])
        router, shared = (self.section(content, name) for name in SETTINGS)
        groups = groups_of(deployments, router)
        self.fallbacks(router, groups, ["router_settings"])
        self.fallbacks(shared, groups, ["litellm_settings"])
        return content

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
        settings: dict[str, Any] = self.expect(value.get(name) or {}, dict, "a mapping of settings", [name])
        self.names(settings, name, [name])
        return settings

    def names(self, values: Mapping[Any, Any], section: str, where: Sequence[Any]) -> None:
        """Refuse a name that LiteLLM does not read in a section."""
        for name in values:
            if remedy := wrong_name(section, str(name)):
                self.fail(f"{self.label(where)}: LiteLLM reads no {name!r}", [*where, name], remedy)

    def deployment(self, value: Any, where: Sequence[Any]) -> None:
        """Check one deployment: its group, its model, its tags."""
        self.expect(value, dict, "a mapping with model_name and litellm_params", where)
        self.expect(value.get("model_name"), str, "the name of a group", [*where, "model_name"])
        place = [*where, "litellm_params"]
        params = self.expect(value.get("litellm_params"), dict, "a mapping", place)
        info = self.expect(value.get("model_info") or {}, dict, "a mapping", [*where, "model_info"])
        self.names(params, "litellm_params", place)
        self.names(info, "model_info", [*where, "model_info"])
        self.prices(params, place)
        self.prices(info, [*where, "model_info"])
        self.expect(params.get("model"), str, "a model like openai/gpt-5.4-mini", [*place, "model"])
        for number, tag in enumerate(
            self.expect(params.get("tags", []), list, "a list of tags", [*place, "tags"])
        ):
            self.expect(tag, str, "a tag", [*place, "tags", number])

    def prices(self, values: Mapping[str, Any], where: Sequence[Any]) -> None:
        """Check that every price is a number, and none below zero."""
        for name, value in values.items():
            if not PRICE.search(str(name)) or value is None or isinstance(value, dict):
                continue
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                remedy = "YAML takes 3e-6 for text: write 3.0e-6" if isinstance(value, str) else ""
                self.fail(
                    f"{self.label([*where, name])}: expected dollars, found {value!r}", [*where, name], remedy
                )
            if not 0 <= value <= MAX_PRICE:
                shown = value if isinstance(value, float) or value < 0 else "so high"
                self.fail(
                    f"{self.label([*where, name])}: a price cannot be {shown}",
                    [*where, name],
                    f"Write 0 to {MAX_PRICE:,} dollars",
                )

    def fallbacks(self, settings: Mapping[str, Any], groups: frozenset[str], where: Sequence[Any]) -> None:
        """Check that every fallback leads from one group to others that there are."""
        for name in FALLBACKS:
            rules = self.expect(settings.get(name) or [], list, "a list of fallbacks", [*where, name])
            for number, rule in enumerate(rules):
                place = [*where, name, number]
                for group, others in self.expect(rule, dict, "group: [other groups]", place).items():
                    self.leads_to([group], groups, place)
                    self.leads_to(others, groups, [*place, group])
            self.ends(rules, [*where, name])
        self.leads_to(settings.get("default_fallbacks") or [], groups, [*where, "default_fallbacks"])

    def leads_to(self, names: Any, groups: frozenset[str], where: Sequence[Any]) -> None:
        """Check a list of groups."""
        for name in self.expect(names, list, "a list of groups", where):
            self.expect(name, str, "the name of a group", where)
            if name != "*" and not any(fnmatchcase(name, group) for group in groups):
                self.fail(
                    f"{where[-1]}: there is no group {name!r}; groups are {', '.join(sorted(groups))}", where
                )

    def ends(self, rules: Sequence[Mapping[str, list[str]]], where: Sequence[Any]) -> None:
        """Check that no group is its own fallback, by however many others."""
        onward = {group: others for rule in rules for group, others in rule.items()}
        for number, rule in enumerate(rules):
            for group in rule:
                if circle := circle_from(group, onward):
                    way = " -> ".join(circle)
                    self.fail(
                        f"{where[-1]} run in a circle: {way}", [*where, number], "Leave one of them out"
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

    def fail(self, message: str, where: Sequence[Any], remedy: str = "") -> NoReturn:
        """Raise the error, with the line of the nearest place that the file has."""
        raise self.problem(message, where, remedy)

    def problem(self, message: str, where: Sequence[Any], remedy: str = "") -> ConfigError:
        """Something wrong at a place of the file."""
        line, field = self.line_of(where), self.label(where)
        return ConfigError(message, path=str(self.path), line=line, remedy=remedy, field=field)

    def line_of(self, where: Sequence[Any]) -> int:
        """The line of a place, or of the nearest one above it that the file has."""
        node, line = self.root, 1
        for step in where:
            found = child(node, step)
            if found is None:
                break
            line, node = found
        return line


def groups_of(deployments: Iterable[Mapping[str, Any]], router_settings: Mapping[str, Any]) -> frozenset[str]:
    """The names that a call may give as `model`: of groups, and of aliases for them."""
    aliases = router_settings.get("model_group_alias") or {}
    return frozenset(each["model_name"] for each in deployments) | frozenset(aliases)


def circle_from(group: str, onward: Mapping[str, list[str]]) -> list[str] | None:
    """A way along the fallbacks from a group back to it, both ends included; None where there is none."""
    ways = [[group]]
    seen: set[str] = set()
    while ways:
        way = ways.pop()
        for name in onward.get(way[-1], []):
            if name == group:
                return [*way, name]
            if name not in seen:
                seen.add(name)
                ways.append([*way, name])
    return None


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
