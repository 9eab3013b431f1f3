"""Which deployments a call may reach, by group, tags and order: the rules of a litellm_config.yaml."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from fnmatch import fnmatchcase
from itertools import pairwise
from typing import Any

from meshwright.errors import ConfigError
from meshwright.models.adapters import needs_litellm
from meshwright.models.config import LiteLLMConfig, missing_names
from meshwright.models.litellm import INSTALL, installed_release
from meshwright.models.port import ModelRefused, ModelRequest
from meshwright.models.providers import provider_params

_DEFAULT_TAG = "default"
BY_CHANCE = "simple-shuffle"
_WEIGHTS = ("weight", "rpm", "tpm")
"""What LiteLLM draws by, the first that its first deployment has."""

CallerTags = tuple[str, Sequence[str]]
"""The group and the tags of somebody's calls."""

WHEN = {
    "fallbacks": "if none answers",
    "context_window_fallbacks": "if the messages are too long",
    "content_policy_fallbacks": "if a policy forbids the answer",
}
"""The kinds of fallbacks of a file, and after which errors each is taken."""


@dataclass(frozen=True)
class _Candidate:
    """One deployment as a call sees it; `why` says in words when it is asked.

    `share` is how many of the calls it gets, from 0 to 1, where chance decides; `missing` the environment's
    variables without which it cannot be called.
    """

    deployment: str
    model: str
    tags: tuple[str, ...]
    weight: float | None
    order: int | None
    share: float | None
    missing: tuple[str, ...]
    why: str
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class Route:
    """Where a call of a group goes: who is asked, who would be with a credential, and what follows.

    `instead` are those tagged default, which LiteLLM asks where all that are asked cool down.
    `fallbacks` are in the order in which they are tried, each group once a kind; `when` says after what.
    `problem` is why nobody can be asked.
    """

    group: str
    when: str
    why: str
    asked: tuple[_Candidate, ...]
    left_out: tuple[_Candidate, ...]
    instead: tuple[_Candidate, ...] = ()
    fallbacks: tuple[Route, ...] = ()
    problem: str | None = None

    def candidates(self) -> Iterator[_Candidate]:
        """Every deployment that could answer, those of the fallbacks too."""
        yield from self.asked
        yield from self.instead
        for fallback in self.fallbacks:
            yield from fallback.candidates()


def route(
    config: LiteLLMConfig, environment: Mapping[str, str] | None, group: str, tags: Sequence[str]
) -> Route:
    """Say where a call goes. Without an `environment` (a proxy has its own) no credential is missing."""
    first = _route(config, environment, group, tags, "")
    follow = [
        _route(config, environment, name, tags, when)
        for kind, when in WHEN.items()
        for name in fallbacks_of(config, group, kind)
    ]
    return replace(first, fallbacks=tuple(follow))


def check(config: LiteLLMConfig, request: ModelRequest) -> None:
    """Refuse a call of a group, or with a tag, that the file does not have: LiteLLM would answer it anyhow.

    Raises ModelRefused, which names those that there are.
    """
    file = config.path.name
    if deployments_of(config, request.model) is None:
        raise ModelRefused(
            f"{file} has no model group {request.model!r}",
            remedy=did_you_mean(request.model, config.groups, "Groups"),
            field="model",
        )
    if unknown := _unknown_tags(config, request.tags):
        raise ModelRefused(
            f"{file} has no deployment tagged {unknown[0]!r}",
            remedy=did_you_mean(unknown[0], _known_tags(config), "Tags"),
            field="tags",
        )


def tags_nobody_answers(config: LiteLLMConfig, callers: Mapping[str, CallerTags]) -> list[ConfigError]:
    """Those callers whose tags no deployment has, or none has together: a default deployment answers them.

    `callers` are named as a person knows them (`prompts/a.prompt`, `agent researcher-agent`).
    """
    problems = []
    for caller, (group, tags) in callers.items():
        if unknown := _unknown_tags(config, tags):
            what = f"{caller}: no deployment of {config.path.name} is tagged {unknown[0]!r}"
            remedy = did_you_mean(unknown[0], _known_tags(config), "Tags")
        elif deployments_of(config, group) is None:
            what = f"{caller}: {config.path.name} has no model group {group!r}"
            remedy = did_you_mean(group, config.groups, "Groups")
        elif tags and not matching(config, deployments_of(config, group) or [], tags):
            what = f"{caller}: no deployment of group {group!r} is tagged {' and '.join(tags)}"
            remedy = "One tagged default answers; tag one with these, or take one away"
        else:
            continue
        problems.append(ConfigError(what, remedy=remedy, field="tags"))
    return problems


def _route(
    config: LiteLLMConfig,
    environment: Mapping[str, str] | None,
    group: str,
    tags: Sequence[str],
    when: str,
) -> Route:
    deployments = deployments_of(config, group)
    if deployments is None:
        return Route(group, when, "", (), (), problem=f"there is no group {group!r}")
    ready = [each for each in deployments if not missing_of(each, environment)]
    chosen, why = _fitting(config, ready, tags)
    meant, why_meant = _fitting(config, deployments, tags)
    absent = [each for each in meant if each not in ready]
    if why != why_meant:
        why = f"{why_meant} cannot be called: those tagged default instead"
    left_out = tuple(_candidate(each, environment, None, "its credential is missing") for each in absent)
    problem = None if chosen else _why_nobody(group, tags, absent, environment)
    why = why if chosen else why_meant
    default, _ = _fitting(config, ready, ()) if tags else ([], "")
    instead = tuple(
        _candidate(each, environment, None, "where all of those cool down")
        for each in default
        if each not in chosen and _DEFAULT_TAG in tags_of(each)
    )
    asked = _asked(config, chosen, environment)
    return Route(group, when, why, asked, left_out, instead, problem=problem)


def _fitting(
    config: LiteLLMConfig, deployments: Sequence[dict[str, Any]], tags: Sequence[str]
) -> tuple[list[dict[str, Any]], str]:
    """Those of a group's deployments that a call with these tags is for, and who they are in words."""
    if not config.router_settings.get("enable_tag_filtering"):
        return list(deployments), "all, since enable_tag_filtering is not set"
    default = [each for each in deployments if _DEFAULT_TAG in tags_of(each)]
    if not tags:
        if default:
            return default, "those tagged default, since the call has no tags"
        return list(deployments), "all, since the call has no tags and none is tagged default"
    joined = (" or " if _any_tag_fits(config) else " and ").join(tags)
    if fit := matching(config, deployments, tags):
        return fit, f"those tagged {joined}"
    return default, f"those tagged default, since none is tagged {joined}"


def _why_nobody(
    group: str,
    tags: Sequence[str],
    absent: Sequence[Mapping[str, Any]],
    environment: Mapping[str, str] | None,
) -> str:
    """Why no deployment of a group can be asked."""
    names = sorted({name for each in absent for name in missing_of(each, environment)})
    if names:
        return f"set one of {', '.join(names)}"
    return f"no deployment of {group!r} is tagged {' and '.join(tags)}, and none default"


def _asked(
    config: LiteLLMConfig, chosen: Sequence[dict[str, Any]], environment: Mapping[str, str] | None
) -> tuple[_Candidate, ...]:
    """The chosen in the order in which they are asked, each with its share of the calls."""
    orders = sorted({order for each in chosen if (order := _order_of(each)) is not None})
    first = [each for each in chosen if not orders or _order_of(each) == orders[0]]
    strategy = config.router_settings.get("routing_strategy", BY_CHANCE)
    shares = shares_of(first) if strategy == BY_CHANCE else [None] * len(first)
    asked = [
        _candidate(each, environment, share, _asked_when(share, strategy, len(first), len(chosen)))
        for each, share in zip(first, shares, strict=True)
    ]
    follow = [
        _candidate(each, environment, None, f"after order {before} failed")
        for before, order in pairwise(orders)
        for each in chosen
        if _order_of(each) == order
    ]
    return (*sorted(asked, key=lambda each: -(each.share or 0)), *follow)


def _asked_when(share: float | None, strategy: str, rivals: int, chosen: int) -> str:
    """When a deployment of the first order is asked."""
    if rivals == 1:
        return "the only one" if chosen == 1 else "first"
    if share is None:
        return f"by {strategy}"
    return f"{share:.0%} of the calls" if share else "where the others cool down"


def shares_of(deployments: Sequence[Mapping[str, Any]]) -> list[float]:
    """How LiteLLM draws: by weight, requests or tokens a minute, what the first has; else all alike."""
    params = [each["litellm_params"] for each in deployments]
    for name in _WEIGHTS:
        if params and params[0].get(name) is not None and sum(each.get(name) or 0 for each in params) > 0:
            return _normal([float(each.get(name) or 0) for each in params])
    return _normal([1.0] * len(params))


def _normal(weights: Sequence[float]) -> list[float]:
    """The weights as parts of 1."""
    return [each / sum(weights) for each in weights]


def _candidate(
    deployment: Mapping[str, Any], environment: Mapping[str, str] | None, share: float | None, why: str
) -> _Candidate:
    """A deployment as a call sees it."""
    params = deployment["litellm_params"]
    return _Candidate(
        deployment=deployment_id(deployment),
        model=params["model"],
        tags=tags_of(deployment),
        weight=params.get("weight"),
        order=params.get("order"),
        share=share,
        missing=missing_of(deployment, environment),
        why=why,
        settings=deployment,
    )


def _unknown_tags(config: LiteLLMConfig, tags: Iterable[str]) -> list[str]:
    """Those of the tags that no deployment has; none where the file does not filter by tags."""
    if not config.router_settings.get("enable_tag_filtering"):
        return []
    known = _known_tags(config)
    return [tag for tag in tags if tag not in known]


def _known_tags(config: LiteLLMConfig) -> frozenset[str]:
    """Every tag that a deployment has."""
    return frozenset(tag for each in config.deployments for tag in tags_of(each))


def tags_of(deployment: Mapping[str, Any]) -> tuple[str, ...]:
    """The tags of one deployment."""
    return tuple(deployment["litellm_params"].get("tags") or ())


def did_you_mean(name: str, known: Iterable[str], what: str) -> str:
    """A remedy: the near names, or all of them."""
    near = get_close_matches(name, list(known), n=3)
    if near:
        return f"Did you mean {' or '.join(map(repr, near))}?"
    return f"{what} are {', '.join(sorted(known))}"


def deployments_of(config: LiteLLMConfig, group: str) -> list[dict[str, Any]] | None:
    """The deployments of a group, by its name, an alias, or a name with a `*`; None where there is none."""
    alias = (config.router_settings.get("model_group_alias") or {}).get(group, group)
    name = alias["model"] if isinstance(alias, dict) else alias
    own = [each for each in config.deployments if each["model_name"] == name]
    if not own:
        patterns = [each for each in config.deployments if "*" in each["model_name"]]
        own = [each for each in patterns if fnmatchcase(name, each["model_name"])]
    return own or None


def fallbacks_of(config: LiteLLMConfig, group: str, kind: str) -> tuple[str, ...]:
    """The groups that are tried after a group, in their order; each once, and never the group itself.

    `kind` is a key of WHEN. A fallback's own fallbacks come before its next sibling.
    """
    seen = [group]

    def follow(name: str) -> None:
        for each in next_groups(config, name, kind):
            if each not in seen:
                seen.append(each)
                follow(each)

    follow(group)
    return tuple(seen[1:])


def next_groups(config: LiteLLMConfig, group: str, kind: str) -> list[str]:
    """The groups that the file names directly as a group's fallbacks."""
    rules = {name: others for rule in setting(config, kind) or [] for name, others in rule.items()}
    if kind != "fallbacks":
        return rules.get(group) or rules.get("*") or []
    return rules.get(group) or rules.get("*") or setting(config, "default_fallbacks") or []


def setting(config: LiteLLMConfig, name: str) -> Any:
    """A setting that a file may give in either of two sections; that of the Router is the stronger."""
    return config.router_settings.get(name, config.litellm_settings.get(name))


def matching(
    config: LiteLLMConfig, deployments: Sequence[dict[str, Any]], tags: Sequence[str]
) -> list[dict[str, Any]]:
    """Those that have the tags: all of them, or any where the file says so; all where it filters by none."""
    if not config.router_settings.get("enable_tag_filtering"):
        return list(deployments)
    fits = any if _any_tag_fits(config) else all
    return [each for each in deployments if fits(tag in tags_of(each) for tag in tags)]


def _any_tag_fits(config: LiteLLMConfig) -> bool:
    """Whether one common tag is enough, which is LiteLLM's default."""
    return bool(config.router_settings.get("tag_filtering_match_any", True))


def _order_of(deployment: Mapping[str, Any]) -> int | None:
    """Its `order`: the lowest is asked first; those without one only where none has any."""
    order: int | None = deployment["litellm_params"].get("order")
    return order


def deployment_id(deployment: Mapping[str, Any]) -> str:
    """The id of a deployment, as replies name it."""
    info = deployment.get("model_info") or {}
    return str(info.get("id") or f"{deployment['model_name']}/{deployment['litellm_params']['model']}")


def missing_of(deployment: Mapping[str, Any], environment: Mapping[str, str] | None) -> tuple[str, ...]:
    """The environment's variables that a deployment needs and that are not set.

    They are those that it names, and its provider's usual key where the file gives none.
    """
    if environment is None:
        return ()
    params = deployment["litellm_params"]
    if needs_litellm(params) and installed_release() is None:
        return (f"LiteLLM ({INSTALL})",)
    usual = () if params.get("api_key") else provider_params(params["model"])
    own = [param.variables[0] for param in usual if param.name == "api_key" and param.misses(environment)]
    return tuple(sorted({*missing_names(deployment, environment), *own}))


def concrete_model(deployment: Mapping[str, Any], name: str) -> str:
    """The model of a deployment, with what a called name puts in the place of its `*`."""
    model: str = deployment["litellm_params"]["model"]
    if "*" not in model:
        return model
    before, _, after = deployment["model_name"].partition("*")
    return model.replace("*", name.removeprefix(before).removesuffix(after), 1)
