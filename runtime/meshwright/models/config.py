"""Reports errors in litellm_config.yaml that LiteLLM reports late or not at all."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, Self

from meshwright.core.errors import ConfigError, nearest
from meshwright.core.money import MAX_DOLLARS, MILLION

if TYPE_CHECKING:
    from yaml import Node

FALLBACKS = ("fallbacks", "context_window_fallbacks", "content_policy_fallbacks")
_SETTINGS = ("router_settings", "litellm_settings")
_NUMBERS = ("rpm", "tpm", "weight", "order", "cooldown_time", "max_parallel_requests")
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
_REFERENCE = re.compile(r"os\.environ/([A-Za-z_][A-Za-z0-9_]*)")
_FOREIGN = re.compile(
    r"^(AWS|CI|DATABASE|DB|DOCKER|GH|GITHUB|GITLAB|MESH|MYSQL|NPM|PG|POSTGRES|PYPI|REDIS|SENTRY|SLACK|SSH|STRIPE)_"
    r"|PASSWORD|SECRET"
)
"""Names of variables that hold credentials of other systems."""
_OF_AWS = ("bedrock/", "sagemaker/", "sagemaker_chat/")
_MAX_DEPTH = 50  # of lists in lists
_YAML_TAG = "tag:yaml.org,2002:"
_CORE = frozenset(
    f"{_YAML_TAG}{kind}" for kind in ("bool", "float", "int", "map", "merge", "null", "seq", "str")
)
"""The kinds of values that a file may have; a date stays the text that it is."""
_Place = Sequence[Any]


@dataclass(frozen=True)
class LiteLLMConfig:
    """A checked configuration. References to the environment (`os.environ/NAME`) stand as written."""

    path: Path
    deployments: tuple[dict[str, Any], ...]
    router_settings: dict[str, Any]
    litellm_settings: dict[str, Any]
    lines: dict[str, int]
    """The line of each of `router_settings`; the section itself stands under no name."""
    warnings: tuple[ConfigError, ...] = ()
    """Settings of the file that are allowed and improbable."""

    @classmethod
    def from_deployments(cls, deployments: Sequence[dict[str, Any]], **router_settings: Any) -> Self:
        """Deployments of code, as if a file had them; a provider gets no parameter that it does not know."""
        return cls(
            Path("models by name"), _with_ids(deployments), router_settings, {"drop_params": True}, lines={}
        )

    @property
    def groups(self) -> frozenset[str]:
        """The names that a call may give as `model`."""
        return _group_names(self.deployments, self.router_settings)


def read_config(path: Path) -> LiteLLMConfig:
    """Read and check the file. Raises ConfigError with file, line, and what was expected."""
    import yaml

    text = read_text(path)
    loader = _yaml_loader(text)
    try:
        _check_depth(text, type(loader))
        node = loader.get_single_node()
        value = None if node is None else loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        line = mark.line + 1 if mark else None
        raise ConfigError(f"is not YAML: {error.problem}", path=str(path), line=line) from None
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        # A character that YAML forbids, or a list that holds itself; the loader tells of all others.
        raise ConfigError("is not YAML", path=str(path), line=1, remedy="Save it as UTF-8 text") from error
    check = _FileCheck(path, node)
    content = check.file(value)
    router, shared = (content.get(name) or {} for name in _SETTINGS)
    lines = {name: check.find_line(["router_settings", name]) for name in ("", *router)}
    deployments = _with_ids(content["model_list"])
    return LiteLLMConfig(path, deployments, router, shared, lines, tuple(check.warnings))


def read_text(path: Path) -> str:
    """The file's text. Raises ConfigError."""
    try:
        return path.read_text("utf-8")
    except FileNotFoundError:
        remedy = "Write one, or name it by the setting models.config"
        raise ConfigError("there is no such file", path=str(path), remedy=remedy) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot be read: {type(error).__name__}", path=str(path)) from error


def _with_ids(deployments: Sequence[dict[str, Any]]) -> tuple[dict[str, Any], ...]:
    """The deployments, each with an id that replies name it by: `default/openai/gpt-5.4-mini`, `...#2`.

    Without one LiteLLM makes up a hash, which changes with the key.
    """
    by_id: dict[str, dict[str, Any]] = {}
    for deployment in deployments:
        info = deployment.get("model_info") or {}
        own = str(info.get("id") or f"{deployment['model_name']}/{deployment['litellm_params']['model']}")
        names = itertools.chain([own], (f"{own}#{number}" for number in itertools.count(2)))
        unique = next(name for name in names if name not in by_id)
        by_id[unique] = {**deployment, "model_info": {**info, "id": unique}}
    return tuple(by_id.values())


def names_in(text: str) -> list[str]:
    """The environment's variables that a configuration refers to, each once, in the order of the file."""
    lines = (line.split("#", 1)[0] for line in text.splitlines())
    return list(dict.fromkeys(name for line in lines for name in _REFERENCE.findall(line)))


def missing_names(value: Any, environment: Mapping[str, str]) -> set[str]:
    """The variables that a part of a configuration refers to and the environment does not set."""
    if isinstance(value, (dict, list)):
        parts = value.values() if isinstance(value, dict) else value
        return {name for part in parts for name in missing_names(part, environment)}
    match = _REFERENCE.fullmatch(value) if isinstance(value, str) else None
    return {match[1]} if match and not environment.get(match[1]) else set()


def resolved(value: Any, environment: Mapping[str, str]) -> Any:
    """A copy of a part of a configuration, with what its references stand for."""
    if isinstance(value, dict):
        return {name: resolved(part, environment) for name, part in value.items()}
    if isinstance(value, list):
        return [resolved(part, environment) for part in value]
    match = _REFERENCE.fullmatch(value) if isinstance(value, str) else None
    return environment[match[1]] if match else value


@cache
def known_names() -> dict[str, frozenset[str]]:
    """The names that LiteLLM reads, by section, of the release that `litellm_names.json` names."""
    data = json.loads(Path(__file__).with_name("litellm_names.json").read_text("utf-8"))
    return {section: frozenset(names) for section, names in data.items() if section != "source"}


def _group_names(deployments: Sequence[Mapping[str, Any]], router: Mapping[str, Any]) -> frozenset[str]:
    return frozenset(
        {deployment["model_name"] for deployment in deployments} | {*(router.get("model_group_alias") or ())}
    )


def _yaml_loader(text: str) -> Any:
    """Reads plain YAML, with anchors and merge keys, but without dates and tags."""
    import yaml

    base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # not every build of PyYAML has the C one
    resolvers = base.yaml_implicit_resolvers

    class CoreLoader(base):
        """Knows the kinds of _CORE, and tells of each value that PyYAML cannot make with its line."""

        yaml_implicit_resolvers = {  # noqa: RUF012 - as PyYAML has it
            first: [(tag, pattern) for tag, pattern in tagged if tag in _CORE]
            for first, tagged in resolvers.items()
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


def _check_depth(text: str, loader: type[Any]) -> None:
    """Raise MarkedYAMLError for deep nesting, by which PyYAML's loader in C ends the process."""
    import yaml

    depth = 0
    for event in yaml.parse(text, Loader=loader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _MAX_DEPTH:
            problem = f"it is more than {_MAX_DEPTH} levels deep"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=event.start_mark)


class _FileCheck:
    """Checks a file; `warnings` are of settings that are allowed and improbable."""

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
        for name in _SETTINGS:
            section = self._expect(content.get(name) or {}, dict, "a mapping of settings", [name])
            self._names(section, name, [name])
        router, shared = (content.get(name) or {} for name in _SETTINGS)
        groups = _group_names(deployments, router)
        self._fallbacks(router, groups, ["router_settings"])
        self._fallbacks(shared, groups, ["litellm_settings"])
        self._doubts(deployments, router, shared)
        return content

    def find_line(self, where: _Place) -> int:
        """The line of a place, or of the nearest one above it that the file has."""
        node, line = self.root, 1
        for step in where:
            child = _child(node, step)
            if child is None:
                break
            line, node = child
        return line

    def _names(self, values: Mapping[Any, Any], section: str, where: _Place) -> None:
        """Warn of a name that LiteLLM does not read in a section, and of a setting that the mesh does not."""
        names = known_names()
        for name in map(str, values):
            if name in names[section] or name.startswith("mock_"):
                continue
            others = _SETTINGS if section in _SETTINGS else ()
            other = next((other for other in others if name in names[other]), None)
            near = nearest(name, names[section], cutoff=0.8)
            if section == "model_info" and not near:
                continue  # where owners note what they like
            remedy = f"Did you mean {near!r}?" if near else "Check how it is written"
            remedy = f"It belongs under {other}" if other else remedy
            what = "and the provider may refuse it" if section == "litellm_params" else "and nothing reads it"
            self._warn(": we know no such name, " + what, [*where, name], remedy)

    def _deployment(self, value: Any, where: _Place) -> None:
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
        for name in _NUMBERS:
            value = params.get(name)
            if value is not None and (isinstance(value, (bool, str, list, dict)) or value < 0):
                self._fail(": expected a number from 0", [*place, name])

    def _prices(self, values: Mapping[str, Any], where: _Place) -> None:
        for name, value in values.items():
            if not _PRICE.search(str(name)) or value is None or isinstance(value, dict):
                continue
            place = [*where, name]
            if isinstance(value, bool) or not isinstance(value, (int, float)):  # True is an int
                remedy = "YAML takes 3e-6 for text: write 3.0e-6" if isinstance(value, str) else ""
                self._fail(f": expected dollars, found {value!r}", place, remedy)
            if not 0 <= value <= _MAX_PRICE:
                amount = value if isinstance(value, float) or value < 0 else "so high"
                remedy = f"Write 0 to {_MAX_PRICE:,} dollars"
                self._fail(f": a price cannot be {amount}", place, remedy)

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
            if name != "*" and not any(fnmatchcase(name, group) for group in groups):  # * is every group
                there_are = ", ".join(sorted(groups))
                self._fail(f"{where[-1]}: there is no group {name!r}; groups are {there_are}", where)

    def _doubts(
        self, deployments: Sequence[Mapping[str, Any]], router: Mapping[str, Any], shared: Mapping[str, Any]
    ) -> None:
        params = [deployment["litellm_params"] for deployment in deployments]
        places: list[_Place] = [["model_list", number, "litellm_params"] for number in range(len(params))]
        for where, settings in zip(
            [*([name] for name in _SETTINGS), *places], [router, shared, *params], strict=True
        ):
            for name in filter(settings.get, _RETRIES):
                self._warn(" is not followed in the mesh", [*where, name], _OWN_RETRIES)
        for name in router.keys() & known_names()["router_settings"] - _FOLLOWED - set(_RETRIES):
            what = " is for a proxy: the mesh does not follow it"
            self._warn(what, ["router_settings", name], "Leave it out")
        if not router.get("enable_tag_filtering") and any(own.get("tags") for own in params):
            remedy = "Set enable_tag_filtering: true under router_settings"
            self._warn("deployments have tags, which pick nothing", ["router_settings"], remedy)
        by_usage = str(router.get("routing_strategy", "")).startswith("usage-based")
        limited = by_usage or _ENFORCED in (router.get("optional_pre_call_checks") or [])
        weighed = {
            group["model_name"] for group in deployments if group["litellm_params"].get("weight") is not None
        }
        for where, own, deployment in zip(places, params, deployments, strict=True):
            self._doubts_of_deployment(where, own, limited)
            group = deployment["model_name"]
            if group in weighed and own.get("weight") is None:
                weighed.remove(group)
                what = f"some deployments of group {group!r} have a weight, and this one has none"
                remedy = "a missing one is 0, and where the first has none no weight counts"
                self._warn(what, where, f"Give each of them one: {remedy}")

    def _doubts_of_deployment(self, where: _Place, params: Mapping[str, Any], limited: bool) -> None:
        for name in params:
            if name.startswith("mock_"):
                what = ": no model is asked, and the ledger books tokens that are made up"
                remedy = "Take it out; MESH_MODELS__ADAPTER=offline answers for nothing"
                self._warn(what, [*where, name], remedy)
        address = params.get("api_base") or params.get("base_url")
        if address and not params["model"].startswith(_OF_AWS):
            for field, value in params.items():
                for name in filter(_FOREIGN.search, _REFERENCE.findall(str(value))):
                    what = f": {name} is sent to {address}, and not named for a provider"
                    remedy = "Check that the file is yours; keep the provider's key in a variable of its own"
                    self._warn(what, [*where, field], remedy)
        for name in ("rpm", "tpm"):
            if params.get(name) is not None and not limited:
                what = " is a limit in the mesh, and only a weight at a proxy"
                remedy = f"Add optional_pre_call_checks: [{_ENFORCED}] under router_settings"
                self._warn(what, [*where, name], remedy)

    def _expect(self, value: Any, kind: type, what: str, where: _Place) -> Any:
        if not isinstance(value, kind) or value == "":
            actual = "nothing" if value is None or value == "" else type(value).__name__
            self._fail(f": expected {what}, found {actual}", where)
        return value

    def _fail(self, message: str, where: _Place, remedy: str = "") -> NoReturn:
        raise self._problem(message, where, remedy)

    def _warn(self, message: str, where: _Place, remedy: str) -> None:
        self.warnings.append(self._problem(message, where, remedy))

    def _problem(self, message: str, where: _Place, remedy: str) -> ConfigError:
        """The error of a place; a message that begins with a blank or a colon continues its name."""
        steps = (f"[{step}]" if isinstance(step, int) else f".{step}" for step in where)
        field = "".join(steps).removeprefix(".") or "the file"  # such as model_list[2].litellm_params.model
        message = f"{field}{message}" if message[0] in " :" else message
        return ConfigError(
            message, path=str(self.path), line=self.find_line(where), remedy=remedy, field=field
        )


def _circle_from(group: str, onward: Mapping[str, list[str]]) -> list[str] | None:
    """A way along the fallbacks from a group back to it, both ends included; None where there is none."""
    ways = [[group]]
    visited: set[str] = set()
    while ways:
        way = ways.pop()
        for name in onward.get(way[-1], []):
            if name == group:
                return [*way, name]
            if name not in visited:
                visited.add(name)
                ways.append([*way, name])
    return None


def _child(node: Node | None, step: Any) -> tuple[int, Node] | None:
    import yaml

    if isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
        return node.value[step].start_mark.line + 1, node.value[step]
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.value == str(step):
                return key.start_mark.line + 1, value
    return None
