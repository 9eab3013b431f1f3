"""What a litellm_config.yaml may say and hardly means: LiteLLM takes it, and does something else."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from meshwright.errors import ConfigError
from meshwright.models.checks import Check
from meshwright.models.names import known_names

RETRIES = ("num_retries", "max_retries", "retry_policy", "model_group_retry_policy")
OWN_RETRIES = "Set it to 0: the mesh retries, and a proxy that does too multiplies the tries"
LIMITS = ("rpm", "tpm")
LITELLMS_ALLOWED_FAILS = 3
ENFORCED = "enforce_model_rate_limits"
PRETENCE = "mock_"
REFERENCES = re.compile(r"os\.environ/(\w+)")
FOREIGN = re.compile(
    r"^(AWS|CI|DATABASE|DB|DOCKER|GH|GITHUB|GITLAB|MESH|MYSQL|NPM|PG|POSTGRES|PYPI|REDIS|SENTRY|SLACK|SSH|STRIPE)_"
    r"|PASSWORD|SECRET"
)
"""Names of variables that hold credentials of other systems."""
OF_AWS = ("bedrock/", "sagemaker/", "sagemaker_chat/")


def warnings_of(check: Check, content: Mapping[str, Any]) -> Iterator[ConfigError]:
    """All that a checked file may say and hardly means, each with its line and what to do."""
    yield from retries_of(check, content)
    yield from pretences_of(check, content)
    yield from strangers_of(check, content)
    yield from strays_of(check, content)
    yield from rules_of(check, content)


def retries_of(check: Check, content: Mapping[str, Any]) -> Iterator[ConfigError]:
    """Each place that asks for retries, which the mesh owns."""
    places: list[tuple[list[Any], Mapping[str, Any]]] = [
        ([section], content.get(section) or {}) for section in ("router_settings", "litellm_settings")
    ]
    places += [
        (["model_list", number, "litellm_params"], each["litellm_params"])
        for number, each in enumerate(content["model_list"])
    ]
    for where, settings in places:
        for name in RETRIES:
            if settings.get(name):
                place = [*where, name]
                yield check.problem(f"{check.label(place)} is not followed in the mesh", place, OWN_RETRIES)


def pretences_of(check: Check, content: Mapping[str, Any]) -> Iterator[ConfigError]:
    """Each deployment that LiteLLM answers for, with tokens that it makes up (10 and 20) and prices."""
    for number, each in enumerate(content["model_list"]):
        for name in each["litellm_params"]:
            if name.startswith(PRETENCE):
                place = ["model_list", number, "litellm_params", name]
                yield check.problem(
                    f"{check.label(place)}: no model is asked, and the ledger books tokens that are made up",
                    place,
                    "Take it out; MESH_MODELS__ADAPTER=offline answers for nothing",
                )


def strangers_of(check: Check, content: Mapping[str, Any]) -> Iterator[ConfigError]:
    """Each parameter of a deployment that LiteLLM hands on to the provider as it is, so far as we know."""
    for number, each in enumerate(content["model_list"]):
        for name in each["litellm_params"]:
            if name not in known_names()["litellm_params"] and not name.startswith(PRETENCE):
                place = ["model_list", number, "litellm_params", name]
                yield check.problem(
                    f"{check.label(place)}: we know no such parameter, and the provider may refuse it",
                    place,
                    "Check how it is written",
                )


def strays_of(check: Check, content: Mapping[str, Any]) -> Iterator[ConfigError]:
    """Each variable that a deployment sends to an address of the file, and is named for something else."""
    for number, each in enumerate(content["model_list"]):
        params = each["litellm_params"]
        address = params.get("api_base") or params.get("base_url")
        if not address or params["model"].startswith(OF_AWS):
            continue
        for field, value in params.items():
            for name in filter(FOREIGN.search, REFERENCES.findall(str(value))):
                place = ["model_list", number, "litellm_params", field]
                yield check.problem(
                    f"{check.label(place)}: {name} is sent to {address}, and not named for a provider",
                    place,
                    "Check that the file is yours; keep the provider's key in a variable of its own",
                )


def rules_of(check: Check, content: Mapping[str, Any]) -> Iterator[ConfigError]:
    """Tags, weights and limits by which nothing is picked."""
    router = content.get("router_settings") or {}
    groups: dict[str, list[tuple[int, Mapping[str, Any]]]] = {}
    for number, each in enumerate(content["model_list"]):
        groups.setdefault(each["model_name"], []).append((number, each["litellm_params"]))
    if not router.get("enable_tag_filtering") and any(
        each["litellm_params"].get("tags") for each in content["model_list"]
    ):
        yield check.problem(
            "deployments have tags, which pick nothing",
            ["router_settings"],
            "Set enable_tag_filtering: true under router_settings",
        )
    if router.get("allowed_fails") == LITELLMS_ALLOWED_FAILS:
        place = ["router_settings", "allowed_fails"]
        what = "allowed_fails: 3 is LiteLLM's default, which it takes for not set"
        yield check.problem(
            what, place, "Write 2 or 4, or leave it out: failures are then weighed by their share"
        )
    for name, members in groups.items():
        yield from weights_of(check, name, members)
        yield from limits_of(check, members, router)


def weights_of(
    check: Check, group: str, members: list[tuple[int, Mapping[str, Any]]]
) -> Iterator[ConfigError]:
    """A group of which only some have a weight: as LiteLLM draws, one without has 0, or no weight counts."""
    without = [number for number, params in members if params.get("weight") is None]
    if without and len(without) < len(members):
        yield check.problem(
            f"some deployments of group {group!r} have a weight, and this one has none",
            ["model_list", without[0], "litellm_params"],
            "Give each of them one: a missing one is 0, and where the first has none no weight counts",
        )


def limits_of(
    check: Check, members: list[tuple[int, Mapping[str, Any]]], router: Mapping[str, Any]
) -> Iterator[ConfigError]:
    """A limit of a rate that a proxy would not enforce."""
    strategy = str(router.get("routing_strategy", "simple-shuffle"))
    if strategy.startswith("usage-based") or ENFORCED in (router.get("optional_pre_call_checks") or []):
        return
    for number, params in members:
        for name in LIMITS:
            if params.get(name) is not None:
                place = ["model_list", number, "litellm_params", name]
                remedy = f"Add optional_pre_call_checks: [{ENFORCED}] under router_settings"
                what = f"{check.label(place)} is a limit in the mesh, and only a weight at a proxy"
                yield check.problem(what, place, remedy)
