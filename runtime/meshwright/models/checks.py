"""What is wrong in a litellm_config.yaml, and what it hardly means, each with its line and what to do."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from meshwright.errors import ConfigError
from meshwright.money import MAX_DOLLARS, MILLION
from meshwright.suggestions import nearest

if TYPE_CHECKING:
    from yaml import Node

FALLBACKS = ("fallbacks", "context_window_fallbacks", "content_policy_fallbacks")
SETTINGS = ("router_settings", "litellm_settings")
_LIMITS = ("rpm", "tpm")
_NAMES = Path(__file__).with_name("litellm_names.json")
_PRICE = re.compile(r"(^|_)cost(_|$)")
_MAX_PRICE = int(MAX_DOLLARS / MILLION)  # dollars per token
_FOLLOWED = frozenset(
    {*FALLBACKS, "default_fallbacks", "enable_tag_filtering", "tag_filtering_match_any", "model_group_alias"}
    | {"routing_strategy", "allowed_fails", "cooldown_time", "disable_cooldowns", "timeout"}
    | {"default_max_parallel_requests", "optional_pre_call_checks"}
)
"""The settings of LiteLLM's Router that the mesh follows."""
_RETRIES = ("num_retries", "max_retries", "retry_policy", "model_group_retry_policy")
_OWN_RETRIES = "Set it to 0: the mesh retries, and a proxy that does too multiplies the tries"
_ENFORCED = "enforce_model_rate_limits"
_REFERENCES = re.compile(r"os\.environ/(\w+)")
_FOREIGN = re.compile(
    r"^(AWS|CI|DATABASE|DB|DOCKER|GH|GITHUB|GITLAB|MESH|MYSQL|NPM|PG|POSTGRES|PYPI|REDIS|SENTRY|SLACK|SSH|STRIPE)_"
    r"|PASSWORD|SECRET"
)
"""Names of variables that hold credentials of other systems."""
_OF_AWS = ("bedrock/", "sagemaker/", "sagemaker_chat/")
_Place = Sequence[Any]


@cache
def known_names() -> dict[str, frozenset[str]]:
    """The names that LiteLLM reads, by section, of the release that `litellm_names.json` names."""
    data = json.loads(_NAMES.read_text("utf-8"))
    return {section: frozenset(names) for section, names in data.items() if section != "source"}


def groups_of(deployments: Iterable[Mapping[str, Any]], router_settings: Mapping[str, Any]) -> frozenset[str]:
    """The names that a call may give as `model`: of groups, and of aliases for them."""
    aliases = router_settings.get("model_group_alias") or {}
    return frozenset(each["model_name"] for each in deployments) | frozenset(aliases)


class Check:
    """Checks what a file says; `warnings` are what it may say."""

    def __init__(self, path: Path, root: Node | None) -> None:
        self.path = path
        self.root = root
        self.warnings: list[ConfigError] = []

    def file(self, value: Any) -> dict[str, Any]:
        """Check the whole file, and return what it holds. Raises ConfigError."""
        content: dict[str, Any] = self._expect(value, dict, "a mapping with model_list", [])
        if "include" in content:
            what = "include is read by a LiteLLM proxy alone: put the deployments into this file"
            self._fail(what, ["include"])
        self._names(content, "sections", [])
        deployments = self._expect(content.get("model_list"), list, "a list of deployments", ["model_list"])
        if not deployments:
            self._fail("model_list is empty: expected at least one deployment", ["model_list"])
        for number, deployment in enumerate(deployments):
            self._deployment(deployment, ["model_list", number])
        for name in SETTINGS:
            section = self._expect(content.get(name) or {}, dict, "a mapping of settings", [name])
            self._names(section, name, [name])
        router, shared = (content.get(name) or {} for name in SETTINGS)
        groups = groups_of(deployments, router)
        self._fallbacks(router, groups, ["router_settings"])
        self._fallbacks(shared, groups, ["litellm_settings"])
        for message, place, remedy in _doubts(deployments, router, shared):
            self._warn(f"{_label(place)}{message}" if message[0] in " :" else message, place, remedy)
        return content

    def line_of(self, where: _Place) -> int:
        """The line of a place, or of the nearest one above it that the file has."""
        node, line = self.root, 1
        for step in where:
            found = _child(node, step)
            if found is None:
                break
            line, node = found
        return line

    def _names(self, values: Mapping[Any, Any], section: str, where: _Place) -> None:
        """Warn of a name that LiteLLM does not read in a section, and of a setting that the mesh does not."""
        known = known_names()
        for name in map(str, values):
            if name in known[section] or name.startswith("mock_"):
                continue
            other = next((each for each in SETTINGS if section in SETTINGS and name in known[each]), None)
            near = nearest(name, known[section], cutoff=0.8)
            if section == "model_info" and not near:
                continue  # where owners note what they like
            remedy = f"It belongs under {other}" if other else "Check how it is written"
            remedy = f"Did you mean {near!r}?" if near and not other else remedy
            place = [*where, name]
            what = "and the provider may refuse it" if section == "litellm_params" else "and nothing reads it"
            self._warn(f"{_label(place)}: we know no such name, {what}", place, remedy)

    def _deployment(self, value: Any, where: _Place) -> None:
        """Check one deployment: its group, its model, its tags and prices."""
        self._expect(value, dict, "a mapping with model_name and litellm_params", where)
        self._expect(value.get("model_name"), str, "the name of a group", [*where, "model_name"])
        place = [*where, "litellm_params"]
        params = self._expect(value.get("litellm_params"), dict, "a mapping", place)
        info = self._expect(value.get("model_info") or {}, dict, "a mapping", [*where, "model_info"])
        for name, section in (("litellm_params", params), ("model_info", info)):
            self._names(section, name, [*where, name])
            self._prices(section, [*where, name])
        self._expect(params.get("model"), str, "a model like openai/gpt-5.4-mini", [*place, "model"])
        tags = self._expect(params.get("tags", []), list, "a list of tags", [*place, "tags"])
        for number, tag in enumerate(tags):
            self._expect(tag, str, "a tag", [*place, "tags", number])
        for name in (*_LIMITS, "weight", "order", "cooldown_time", "max_parallel_requests"):
            if name in params and not _is_number(params[name]):
                self._fail(f"{_label([*place, name])}: expected a number from 0", [*place, name])

    def _prices(self, values: Mapping[str, Any], where: _Place) -> None:
        """Check that every price is a number, and none below zero."""
        for name, value in values.items():
            if not _PRICE.search(str(name)) or value is None or isinstance(value, dict):
                continue
            place = [*where, name]
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                remedy = "YAML takes 3e-6 for text: write 3.0e-6" if isinstance(value, str) else ""
                self._fail(f"{_label(place)}: expected dollars, found {value!r}", place, remedy)
            if not 0 <= value <= _MAX_PRICE:
                shown = value if isinstance(value, float) or value < 0 else "so high"
                remedy = f"Write 0 to {_MAX_PRICE:,} dollars"
                self._fail(f"{_label(place)}: a price cannot be {shown}", place, remedy)

    def _fallbacks(self, settings: Mapping[str, Any], groups: frozenset[str], where: _Place) -> None:
        """Check that every fallback leads from one group to others that there are, and none in a circle."""
        for name in FALLBACKS:
            rules = self._expect(settings.get(name) or [], list, "a list of fallbacks", [*where, name])
            for number, rule in enumerate(rules):
                place = [*where, name, number]
                for group, others in self._expect(rule, dict, "group: [other groups]", place).items():
                    self._lead_to([group], groups, place)
                    self._lead_to(others, groups, [*place, group])
            onward = {group: others for rule in rules for group, others in rule.items()}
            for number, rule in enumerate(rules):
                for circle in filter(None, (_circle_from(group, onward) for group in rule)):
                    what = f"{name} run in a circle: {' -> '.join(circle)}"
                    self._fail(what, [*where, name, number], "Leave one of them out")
        self._lead_to(settings.get("default_fallbacks") or [], groups, [*where, "default_fallbacks"])

    def _lead_to(self, names: Any, groups: frozenset[str], where: _Place) -> None:
        for name in self._expect(names, list, "a list of groups", where):
            self._expect(name, str, "the name of a group", where)
            if name != "*" and not any(fnmatchcase(name, group) for group in groups):
                there_are = ", ".join(sorted(groups))
                self._fail(f"{where[-1]}: there is no group {name!r}; groups are {there_are}", where)

    def _expect(self, value: Any, kind: type, what: str, where: _Place) -> Any:
        """Return the value if it is of the kind; else say what was expected, and where."""
        if not isinstance(value, kind) or value == "":
            found = "nothing" if value is None or value == "" else type(value).__name__
            self._fail(f"{_label(where)}: expected {what}, found {found}", where)
        return value

    def _fail(self, message: str, where: _Place, remedy: str = "") -> NoReturn:
        raise self._problem(message, where, remedy)

    def _warn(self, message: str, where: _Place, remedy: str) -> None:
        self.warnings.append(self._problem(message, where, remedy))

    def _problem(self, message: str, where: _Place, remedy: str) -> ConfigError:
        line, field = self.line_of(where), _label(where)
        return ConfigError(message, path=str(self.path), line=line, remedy=remedy, field=field)


def _doubts(
    deployments: Sequence[Mapping[str, Any]], router: Mapping[str, Any], shared: Mapping[str, Any]
) -> Iterator[tuple[str, list[Any], str]]:
    """What a file may say and hardly means: a message (behind its place, where it begins with a blank), the
    place, and a remedy."""
    params = [each["litellm_params"] for each in deployments]
    sections: list[tuple[list[Any], Mapping[str, Any]]] = [([SETTINGS[0]], router), ([SETTINGS[1]], shared)]
    sections += [(["model_list", number, "litellm_params"], each) for number, each in enumerate(params)]
    for where, settings in sections:
        yield from (
            (" is not followed in the mesh", [*where, name], _OWN_RETRIES)
            for name in _RETRIES
            if settings.get(name)
        )
    for name in router.keys() & known_names()["router_settings"] - _FOLLOWED - set(_RETRIES):
        yield " is for a proxy: the mesh does not follow it", ["router_settings", name], "Leave it out"
    if not router.get("enable_tag_filtering") and any(each.get("tags") for each in params):
        remedy = "Set enable_tag_filtering: true under router_settings"
        yield "deployments have tags, which pick nothing", ["router_settings"], remedy
    for number, each in enumerate(params):
        yield from _doubts_of_deployment(["model_list", number, "litellm_params"], each, router)
    for group in dict.fromkeys(each["model_name"] for each in deployments):
        members = [number for number, each in enumerate(deployments) if each["model_name"] == group]
        without = [number for number in members if params[number].get("weight") is None]
        if without and len(without) < len(members):
            what = f"some deployments of group {group!r} have a weight, and this one has none"
            remedy = (
                "Give each of them one: a missing one is 0, and where the first has none no weight counts"
            )
            yield what, ["model_list", without[0], "litellm_params"], remedy


def _doubts_of_deployment(
    where: list[Any], params: Mapping[str, Any], router: Mapping[str, Any]
) -> Iterator[tuple[str, list[Any], str]]:
    for name in params:
        if name.startswith("mock_"):
            what = ": no model is asked, and the ledger books tokens that are made up"
            yield what, [*where, name], "Take it out; MESH_MODELS__ADAPTER=offline answers for nothing"
    address = params.get("api_base") or params.get("base_url")
    if address and not params["model"].startswith(_OF_AWS):
        for field, value in params.items():
            for name in filter(_FOREIGN.search, _REFERENCES.findall(str(value))):
                what = f": {name} is sent to {address}, and not named for a provider"
                remedy = "Check that the file is yours; keep the provider's key in a variable of its own"
                yield what, [*where, field], remedy
    by_usage = str(router.get("routing_strategy", "")).startswith("usage-based")
    if by_usage or _ENFORCED in (router.get("optional_pre_call_checks") or []):
        return
    for name in _LIMITS:
        if params.get(name) is not None:
            remedy = f"Add optional_pre_call_checks: [{_ENFORCED}] under router_settings"
            yield " is a limit in the mesh, and only a weight at a proxy", [*where, name], remedy


def _is_number(value: Any) -> bool:
    return value is None or (isinstance(value, (int, float)) and not isinstance(value, bool) and value >= 0)


def _label(where: _Place) -> str:
    """The place in words: `model_list[2].litellm_params.model`."""
    steps = (f"[{step}]" if isinstance(step, int) else f".{step}" for step in where)
    return "".join(steps).removeprefix(".") or "the file"


def _circle_from(group: str, onward: Mapping[str, list[str]]) -> list[str] | None:
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


def _child(node: Node | None, step: Any) -> tuple[int, Node] | None:
    """The line and the node of one step down in a file."""
    import yaml

    if isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
        return node.value[step].start_mark.line + 1, node.value[step]
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.value == str(step):
                return key.start_mark.line + 1, value
    return None
