"""What LiteLLM's Router is made from: those deployments and settings of the file that can be used."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from meshwright.errors import ConfigError
from meshwright.models.config import FALLBACKS, LiteLLMConfig, missing_names, resolved
from meshwright.models.litellm_import import import_litellm
from meshwright.models.litellm_router import make_router
from meshwright.models.reasons import Discretion, secrets_in
from meshwright.models.translation import litellm_words

Deployments = list[dict[str, Any]]
# Settings of the file's other section that the Router takes as arguments.
SHARED = ("allowed_fails",)
# What the Router would do by itself, and the mesh does: fall back, retry, and cache for each tenant apart.
OURS = frozenset(
    {*FALLBACKS, "default_fallbacks", "max_fallbacks", "num_retries", "retry_policy"}
    | {"model_group_retry_policy", "enable_weighted_failover", "cache_responses", "caching_groups"}
)


def usable_deployments(config: LiteLLMConfig, environment: Mapping[str, str]) -> Deployments:
    """The deployments of which every reference is set, resolved. Raises ConfigError if there are none."""
    usable = [
        resolved(each, environment) for each in config.deployments if not missing_names(each, environment)
    ]
    if not usable:
        raise no_deployment(config, missing_names(list(config.deployments), environment))
    return usable


def build_router(
    config: LiteLLMConfig, environment: Mapping[str, str], usable: Deployments
) -> tuple[Any, Deployments]:
    """Import LiteLLM and make its Router of the usable deployments: it, and those whose keys LiteLLM finds.

    Takes about two seconds. Raises ConfigError where it cannot be imported, or does not accept the file.
    """
    try:
        litellm = import_litellm()
    except ImportError as error:
        remedy = "Install it anew: pip install --force-reinstall litellm"
        raise ConfigError(f"LiteLLM cannot be imported: {error}", remedy=remedy) from error
    settings = router_settings(config, environment, litellm.Router.get_valid_args())
    deployments = [each for each in usable if has_keys(each, litellm.validate_environment)]
    if not deployments:
        raise no_deployment(config, set())
    try:
        return make_router(deployments, settings), deployments
    except Exception as error:  # noqa: BLE001 - of a value that it does not accept, it raises anything
        shown = Discretion([*secrets_in(deployments), *secrets_in(environment)]).shown(litellm_words([error]))
        why = f"{type(error).__name__}: {shown}" if shown else type(error).__name__
        raise refusal(config, f"LiteLLM's Router does not accept them ({why})") from None


def router_settings(
    config: LiteLLMConfig, environment: Mapping[str, str], known: list[str]
) -> dict[str, Any]:
    """The Router's arguments by the file, resolved, but for what the mesh does itself. Raises ConfigError."""
    settings = {**shared_settings(config), **config.router_settings}
    if unknown := sorted(settings.keys() - set(known)):
        raise refusal(config, f"LiteLLM's Router knows no {unknown[0]!r}", unknown[0])
    if missing := sorted(missing_names(settings, environment)):
        raise refusal(config, f"{missing[0]} is not set in the environment")
    return resolved({name: value for name, value in settings.items() if name not in OURS}, environment)


def shared_settings(config: LiteLLMConfig) -> dict[str, Any]:
    """The Router's arguments that a file may also give under `litellm_settings`."""
    settings = config.litellm_settings
    shared = {name: settings[name] for name in SHARED if name in settings}
    return {**shared, "timeout": settings["request_timeout"]} if "request_timeout" in settings else shared


def has_keys(deployment: Mapping[str, Any], validate_environment: Any) -> bool:
    """Whether LiteLLM finds the provider's key; a missing one would later look like a server's fault."""
    params = deployment["litellm_params"]
    given = {name: params.get(name) for name in ("api_key", "api_base")}
    return bool(given["api_key"]) or not validate_environment(params["model"], **given)["missing_keys"]


def no_deployment(config: LiteLLMConfig, missing: set[str]) -> ConfigError:
    """The error for a configuration of which nothing can be called."""
    names = f"one of {', '.join(sorted(missing))}" if missing else "the keys of its providers"
    return ConfigError(
        "the key or address of every deployment is missing", path=str(config.path), remedy=f"Set {names}"
    )


def refusal(config: LiteLLMConfig, message: str, setting: str = "") -> ConfigError:
    """The error for settings of the Router."""
    line = config.lines.get(setting) or config.lines.get("")
    return ConfigError(f"router_settings: {message}", path=str(config.path), line=line)
