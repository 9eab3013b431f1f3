"""Groups, tags and fallbacks of a litellm_config.yaml: what LiteLLM's Router reads in it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any

from meshwright.models.config import LiteLLMConfig, missing_names
from meshwright.models.providers import PROVIDERS, SAME, Param


def unknown_tags(config: LiteLLMConfig, tags: Iterable[str]) -> list[str]:
    """Those of the tags that no deployment has; none where the file does not filter by tags."""
    if not config.router_settings.get("enable_tag_filtering"):
        return []
    known = known_tags(config)
    return [tag for tag in tags if tag not in known]


def known_tags(config: LiteLLMConfig) -> frozenset[str]:
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
    fits = any if any_tag_fits(config) else all
    return [each for each in deployments if fits(tag in tags_of(each) for tag in tags)]


def any_tag_fits(config: LiteLLMConfig) -> bool:
    """Whether one common tag is enough, which is LiteLLM's default."""
    return bool(config.router_settings.get("tag_filtering_match_any", True))


def order_of(deployment: Mapping[str, Any]) -> int | None:
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
    usual = None if params.get("api_key") else usual_key(params["model"])
    unset = usual is not None and usual.misses(environment)
    own = usual.variables[:1] if usual is not None and unset else ()
    return tuple(sorted({*missing_names(deployment, environment), *own}))


def usual_key(model: str) -> Param | None:
    """What gives the key of the provider of a model; None where nothing is known of it."""
    prefix, slash, _ = model.partition("/")
    for each in PROVIDERS:
        if each.name == SAME.get(prefix, prefix) if slash else model.startswith(each.families):
            return next((param for param in each.params if param.name == "api_key"), None)
    return None
