"""Which deployments a call may reach, by group, tags and order: the rules of a litellm_config.yaml."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from fnmatch import fnmatchcase
from itertools import pairwise
from typing import Any

from meshwright.core.errors import ConfigError
from meshwright.core.plugins import install_command
from meshwright.models.config import LiteLLMConfig, missing_names
from meshwright.models.errors import ModelRefused
from meshwright.models.litellm import installed_release
from meshwright.models.port import ModelRequest
from meshwright.models.providers import needs_litellm, provider_params

BY_CHANCE = "simple-shuffle"
_DEFAULT_TAG = _DEFAULT_GROUP = "default"
_SHIPPED_GROUPS = (_DEFAULT_GROUP, "quality", "fast")
_MISSPELT = 0.8  # of two tags, from 0 to 1: so alike that one is taken for the other
_WEIGHTS = ("weight", "rpm", "tpm")
"""The weights that LiteLLM draws by, the first that its first deployment has."""
_Deployment = Mapping[str, Any]
_Environment = Mapping[str, str] | None
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
    """A deployment as a call sees it: when it is asked, and for which share of calls where chance decides.

    `missing` are the environment's variables without which it cannot be called.
    """

    settings: _Deployment
    why: str
    share: float | None = None
    missing: tuple[str, ...] = ()

    @property
    def deployment(self) -> str:
        return deployment_id(self.settings)

    @property
    def model(self) -> str:
        return str(self.settings["litellm_params"]["model"])

    @property
    def tags(self) -> tuple[str, ...]:
        return deployment_tags(self.settings)

    def document(self) -> dict[str, Any]:
        names = ("deployment", "model", "share", "why", "missing")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class _ModelRoute:
    """The route of a group's calls: deployments that are asked, those without a credential, and fallbacks.

    `instead` are those tagged default, which are asked where all that are asked cool down. `fallbacks` are
    in the order in which they are tried, each group once a kind; `when` says after what. `problem` is why
    no deployment can be called.
    """

    group: str
    when: str
    why: str = ""
    asked: tuple[_Candidate, ...] = ()
    left_out: tuple[_Candidate, ...] = ()
    instead: tuple[_Candidate, ...] = ()
    fallbacks: tuple[_ModelRoute, ...] = ()
    problem: str | None = None

    def candidates(self) -> Iterator[_Candidate]:
        """Every deployment that could answer, fallbacks included."""
        yield from (*self.asked, *self.instead)
        for fallback in self.fallbacks:
            yield from fallback.candidates()

    def document(self) -> dict[str, Any]:
        """The route as plain data."""
        lists = ("asked", "instead", "left_out", "fallbacks")
        return {
            **{name: getattr(self, name) for name in ("group", "when", "why", "problem")},
            **{name: [part.document() for part in getattr(self, name)] for name in lists},
        }


def route(config: LiteLLMConfig, environment: _Environment, group: str, tags: Sequence[str]) -> _ModelRoute:
    """Say where a call goes. Without an `environment` (a proxy has its own) no credential is missing."""
    follow = [
        _route(config, environment, name, tags, when)
        for kind, when in WHEN.items()
        for name in group_fallbacks(config, group, kind)
    ]
    return replace(_route(config, environment, group, tags, ""), fallbacks=tuple(follow))


def check(config: LiteLLMConfig, request: ModelRequest) -> None:
    """Refuse a call of a group, or with a tag, that the file does not have: LiteLLM would answer it anyhow.

    Raises ModelRefused, which names the groups or tags of the file.
    """
    deployments = group_deployments(config, request.model)
    if deployments is None:
        what, remedy = no_group(config, request.model)
        raise ModelRefused(what, remedy=remedy, field="model")
    for tag in _unknown_tags(config, request.tags)[:1]:
        tags = _known_tags(config)
        # The deployment for all may answer a tag that is foreign: none of the file's, misspelt.
        if not _for_all(deployments) or get_close_matches(tag, tags, n=1, cutoff=_MISSPELT):
            remedy = _did_you_mean(tag, tags, "Tags")
            what = f"{config.path.name} has no deployment tagged {tag!r}"
            raise ModelRefused(what, remedy=remedy, field="tags")


def no_group(config: LiteLLMConfig, group: str) -> tuple[str, str]:
    """The problem and the remedy of a group that the file does not have."""
    remedy = _did_you_mean(group, config.groups, "Groups")
    return f"{config.path.name} has no model group {group!r}", remedy


def tags_nobody_answers(config: LiteLLMConfig, callers: Mapping[str, CallerTags]) -> list[ConfigError]:
    """Those callers whose tags no deployment has, or none has together: a default deployment answers them.

    `callers` are named as a person knows them (`prompts/a.prompt`, `agent researcher-agent`).
    """
    problems = []
    for caller, (group, tags) in callers.items():
        deployments = group_deployments(config, group)
        if unknown := _unknown_tags(config, tags):
            what = f"no deployment of {config.path.name} is tagged {unknown[0]!r}"
            remedy = _did_you_mean(unknown[0], _known_tags(config), "Tags")
        elif deployments is None:
            what, remedy = no_group(config, group)
        elif (other := _stand_in(config, group)) is not None:
            what = f"{config.path.name} has no model group {group!r}: {other!r} answers"
            remedy = "Add the group, or name another one in the prompt"
        elif tags and not matching(config, deployments, tags):
            what = f"no deployment of group {group!r} is tagged {' and '.join(tags)}"
            remedy = "One tagged default answers; tag one with these, or take one away"
        else:
            continue
        problems.append(ConfigError(f"{caller}: {what}", remedy=remedy, field="tags"))
    return problems


def _route(
    config: LiteLLMConfig, environment: _Environment, group: str, tags: Sequence[str], when: str
) -> _ModelRoute:
    deployments = group_deployments(config, group)
    if deployments is None:
        return _ModelRoute(group, when, problem=f"there is no group {group!r}")
    missing = {
        deployment_id(deployment): missing_variables(deployment, environment) for deployment in deployments
    }
    ready = [deployment for deployment in deployments if not missing[deployment_id(deployment)]]
    chosen, why = _fitting(config, ready, tags)
    fitting, why_meant = _fitting(config, deployments, tags)  # as if every credential were set
    absent = [deployment for deployment in fitting if deployment not in ready]
    if why != why_meant:
        why = f"{why_meant} cannot be called: those tagged default instead"
    problem = None
    if not chosen:
        why, problem = (
            why_meant,
            f"no deployment of {group!r} is tagged {' and '.join(tags)}, and none default",
        )
        if names := sorted({name for deployment in absent for name in missing[deployment_id(deployment)]}):
            problem = f"set one of {', '.join(names)}"
    default = [deployment for deployment in _for_all(ready) if deployment not in chosen]
    stand_in = default if tags and config.router_settings.get("enable_tag_filtering") else []
    return _ModelRoute(
        group,
        when,
        why,
        asked=_asked(config, chosen),
        left_out=tuple(
            _Candidate(deployment, "its credential is missing", missing=missing[deployment_id(deployment)])
            for deployment in absent
        ),
        instead=tuple(_Candidate(deployment, "where all of those cool down") for deployment in stand_in),
        problem=problem,
    )


def _fitting(
    config: LiteLLMConfig, deployments: Sequence[dict[str, Any]], tags: Sequence[str]
) -> tuple[list[dict[str, Any]], str]:
    """Those of a group's deployments that a call with these tags is for, and how errors name them."""
    if not config.router_settings.get("enable_tag_filtering"):
        return list(deployments), "all, since enable_tag_filtering is not set"
    default = _for_all(deployments)
    if not tags and any(deployment_tags(deployment) for deployment in default):
        return default, "those tagged default, since the call has no tags"
    if not tags:
        return list(deployments), "all, since the call has no tags and none is tagged default"
    joined = (" or " if _any_tag_fits(config) else " and ").join(tags)
    if fit := matching(config, deployments, tags):
        return fit, f"those tagged {joined}"
    has_tags = any(deployment_tags(deployment) for deployment in default)
    return default, f"those {'tagged default' if has_tags else 'without tags'}, since none is tagged {joined}"


def _for_all(deployments: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those that answer where no other fits a call's tags: tagged default, else without any tag."""
    default = [deployment for deployment in deployments if _DEFAULT_TAG in deployment_tags(deployment)]
    return default or [deployment for deployment in deployments if not deployment_tags(deployment)]


def _asked(config: LiteLLMConfig, chosen: Sequence[_Deployment]) -> tuple[_Candidate, ...]:
    """The chosen in the order in which they are asked, each with its share of the calls."""
    orders = sorted({order for deployment in chosen if (order := deployment_order(deployment)) is not None})
    first = [deployment for deployment in chosen if not orders or deployment_order(deployment) == orders[0]]
    strategy = config.router_settings.get("routing_strategy", BY_CHANCE)
    shares = traffic_shares(first) if strategy == BY_CHANCE else [None] * len(first)
    candidates = []
    for deployment, share in zip(first, shares, strict=True):
        if len(first) == 1:
            why = "the only one" if len(chosen) == 1 else "first"
        elif share is None:
            why = f"by {strategy}"
        else:
            why = f"{share:.0%} of the calls" if share else "where the others cool down"
        candidates.append(_Candidate(deployment, why, share))
    follow = [
        _Candidate(deployment, f"after order {before} failed")
        for before, order in pairwise(orders)
        for deployment in chosen
        if deployment_order(deployment) == order
    ]
    return (*sorted(candidates, key=lambda candidate: -(candidate.share or 0)), *follow)


def traffic_shares(deployments: Sequence[_Deployment]) -> list[float]:
    """How LiteLLM draws: by weight, requests or tokens a minute, what the first has; else all alike."""
    params = [deployment["litellm_params"] for deployment in deployments]
    for name in _WEIGHTS:
        weights = [float(values.get(name) or 0) for values in params]
        if params and params[0].get(name) is not None and sum(weights) > 0:
            return [weight / sum(weights) for weight in weights]
    return [1 / len(params) for _ in params]


def _unknown_tags(config: LiteLLMConfig, tags: Iterable[str]) -> list[str]:
    """Those of the tags that no deployment has; none where the file does not filter by tags."""
    if not config.router_settings.get("enable_tag_filtering"):
        return []
    known_tags = _known_tags(config)
    return [tag for tag in tags if tag not in known_tags]


def _known_tags(config: LiteLLMConfig) -> frozenset[str]:
    return frozenset(tag for deployment in config.deployments for tag in deployment_tags(deployment))


def deployment_tags(deployment: _Deployment) -> tuple[str, ...]:
    """The tags of one deployment."""
    return tuple(deployment["litellm_params"].get("tags") or ())


def _did_you_mean(name: str, names: Iterable[str], what: str) -> str:
    if near := get_close_matches(name, list(names), n=3):
        return f"Did you mean {' or '.join(map(repr, near))}?"
    return f"{what} are {', '.join(sorted(names))}"


def group_deployments(config: LiteLLMConfig, group: str) -> list[dict[str, Any]] | None:
    """The deployments of a group, by its name, an alias, or a name with a `*`; None where there is none.

    A group of the shipped prompts that the file does not have is that which stands in for it.
    """
    alias = (config.router_settings.get("model_group_alias") or {}).get(group, group)
    name = alias["model"] if isinstance(alias, dict) else alias
    own = [deployment for deployment in config.deployments if deployment["model_name"] == name]
    patterns = (deployment for deployment in config.deployments if "*" in deployment["model_name"])
    matches = own or [deployment for deployment in patterns if fnmatchcase(name, deployment["model_name"])]
    if not matches and (other := _stand_in(config, name)) is not None:
        matches = [deployment for deployment in config.deployments if deployment["model_name"] == other]
    return matches or None


def _stand_in(config: LiteLLMConfig, group: str) -> str | None:
    """The group in place of a shipped prompt's that a file does not have: default, or its only one."""
    names = {deployment["model_name"] for deployment in config.deployments}
    if group not in _SHIPPED_GROUPS or group in config.groups:
        return None
    return _DEFAULT_GROUP if _DEFAULT_GROUP in names else next(iter(names)) if len(names) == 1 else None


def group_fallbacks(config: LiteLLMConfig, group: str, kind: str) -> tuple[str, ...]:
    """The groups that are tried after a group, in their order; each once, and never the group itself.

    `kind` is a key of WHEN. A fallback's own fallbacks come before its next sibling.
    """
    visited = [group]  # no group twice: circles end

    def follow(name: str) -> None:
        for other in next_groups(config, name, kind):
            if other not in visited:
                visited.append(other)
                follow(other)

    follow(group)
    return tuple(visited[1:])


def next_groups(config: LiteLLMConfig, group: str, kind: str) -> list[str]:
    """The groups that the file names directly as a group's fallbacks."""
    rules = {name: others for rule in setting(config, kind) or [] for name, others in rule.items()}
    usual = setting(config, "default_fallbacks") if kind == "fallbacks" else None
    return rules.get(group) or rules.get("*") or usual or []  # its own, then those of every group


def setting(config: LiteLLMConfig, name: str) -> Any:
    """A setting that a file may give in either of two sections; the Router's is the stronger."""
    return config.router_settings.get(name, config.litellm_settings.get(name))


def matching(
    config: LiteLLMConfig, deployments: Sequence[dict[str, Any]], tags: Sequence[str]
) -> list[dict[str, Any]]:
    """Those that have the tags: all of them, or any where the file says so; all where it filters by none."""
    if not config.router_settings.get("enable_tag_filtering"):
        return list(deployments)
    fits = any if _any_tag_fits(config) else all
    return [
        deployment for deployment in deployments if fits(tag in deployment_tags(deployment) for tag in tags)
    ]


def _any_tag_fits(config: LiteLLMConfig) -> bool:
    """Whether one common tag is enough, which is LiteLLM's default."""
    return bool(config.router_settings.get("tag_filtering_match_any", True))


def deployment_order(deployment: _Deployment) -> int | None:
    """Its `order`: the lowest is asked first; those without one only where none has any."""
    order: int | None = deployment["litellm_params"].get("order")
    return order


def deployment_id(deployment: _Deployment) -> str:
    """The id of a deployment, as replies name it."""
    info = deployment.get("model_info") or {}
    return str(info.get("id") or f"{deployment['model_name']}/{deployment['litellm_params']['model']}")


def missing_variables(deployment: _Deployment, environment: _Environment) -> tuple[str, ...]:
    """The environment's variables that a deployment needs and that are not set.

    The file refers to them; without a key there, it also needs its provider's usual one.
    """
    if environment is None:
        return ()
    params = deployment["litellm_params"]
    if needs_litellm(params) and installed_release() is None:
        return (f"LiteLLM ({install_command('litellm')})",)
    usual = () if params.get("api_key") else provider_params(params["model"])
    own = [param.variables[0] for param in usual if param.name == "api_key" and param.misses(environment)]
    return tuple(sorted({*missing_names(deployment, environment), *own}))


def concrete_model(deployment: _Deployment, name: str) -> str:
    """The model of a deployment, with what a called name puts in the place of its `*`."""
    model: str = deployment["litellm_params"]["model"]
    if "*" not in model:
        return model
    before, _, after = deployment["model_name"].partition("*")
    return model.replace("*", name.removeprefix(before).removesuffix(after), 1)
