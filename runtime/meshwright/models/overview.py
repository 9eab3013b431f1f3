"""What `mesh models` shows: groups, deployments and prices, and where a call goes, as plain data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from meshwright.models.config import LiteLLMConfig
from meshwright.models.port import ModelRequest
from meshwright.models.prices import Prices, Rates
from meshwright.models.routing import (
    WHEN,
    Candidate,
    Route,
    check,
    deployment_id,
    fallbacks_of,
    missing_of,
    route,
    tags_of,
)

Document = dict[str, Any]
UNKNOWN = {"status": "unknown"}
"""The health of what nobody has called yet."""


def groups_document(
    config: LiteLLMConfig,
    prices: Prices,
    environment: Mapping[str, str] | None,
    health: Mapping[str, Document],
) -> list[Document]:
    """Every group: its deployments, and which groups follow it after which error."""
    names = sorted(config.groups, key=lambda name: (name != "default", name))
    return [
        {
            "group": name,
            "deployments": [
                deployment_document(each, prices, environment, health)
                for each in config.deployments
                if each["model_name"] == name
            ],
            "fallbacks": {kind: list(fallbacks_of(config, name, kind)) for kind in WHEN},
        }
        for name in names
    ]


def deployment_document(
    deployment: Mapping[str, Any],
    prices: Prices,
    environment: Mapping[str, str] | None,
    health: Mapping[str, Document],
) -> Document:
    """One deployment."""
    params = deployment["litellm_params"]
    name = deployment_id(deployment)
    return {
        "deployment": name,
        "model": params["model"],
        "tags": list(tags_of(deployment)),
        "weight": params.get("weight"),
        "order": params.get("order"),
        "price": price_document(prices.of_deployment(deployment)),
        "missing": list(missing_of(deployment, environment)),
        "health": health.get(name, UNKNOWN),
    }


def price_document(rates: Rates | None) -> Document | None:
    """A price in dollars per million tokens, as text; `above` holds for prompts of more tokens than that."""
    if rates is None:
        return None
    above = [{"prompt_tokens": limit, **price.model_dump(mode="json")} for limit, price in rates.above]
    return {**rates.base.model_dump(mode="json"), "source": rates.source, "above": above}


def explanation(
    config: LiteLLMConfig, environment: Mapping[str, str] | None, group: str, tags: Sequence[str]
) -> Document:
    """Where a call goes. Raises ModelRefused for a group or a tag that the file does not have."""
    check(config, ModelRequest(model=group, messages=(), tags=tuple(tags), user="mesh models route"))
    return {"tags": list(tags), **route_document(route(config, environment, group, tags))}


def route_document(found: Route) -> Document:
    """A route and those that follow it."""
    return {
        "group": found.group,
        "when": found.when,
        "why": found.why,
        "asked": [candidate_document(each) for each in found.asked],
        "instead": [candidate_document(each) for each in found.instead],
        "left_out": [candidate_document(each) for each in found.left_out],
        "problem": found.problem,
        "fallbacks": [route_document(each) for each in found.fallbacks],
    }


def candidate_document(candidate: Candidate) -> Document:
    """One that is asked, or would be."""
    return {
        "deployment": candidate.deployment,
        "model": candidate.model,
        "share": candidate.share,
        "why": candidate.why,
        "missing": list(candidate.missing),
    }
