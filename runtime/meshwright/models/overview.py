"""The deployments behind a model, as plain data: what there is, where a call goes, whether each answers."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from meshwright.core.errors import ConfigError
from meshwright.core.money import Price
from meshwright.models.circuits import Circuits, OpenCircuit
from meshwright.models.config import LiteLLMConfig, read_config
from meshwright.models.port import Adapter, Model, ModelRequest, PriceList
from meshwright.models.prices import Prices, Rates, price_list
from meshwright.models.probe import probe_model
from meshwright.models.providers import convention_name
from meshwright.models.routing import (
    WHEN,
    check,
    deployment_id,
    deployment_tags,
    group_fallbacks,
    missing_variables,
    route,
)

_Document = dict[str, Any]
_AT_ONCE = 4  # calls of a test


class Deployments:
    """The deployments behind a model; `path` is the project's litellm_config.yaml, which need not exist."""

    def __init__(
        self, model: Adapter, path: Path, default_price: Price | None, circuits: Circuits | None = None
    ) -> None:
        self._model = model
        self._path = path
        self._default_price = default_price
        self._circuits = circuits or Circuits()

    @property
    def groups(self) -> tuple[str, ...] | None:
        """The models that callers may name; None where only a server knows."""
        return None if (groups := self._model.groups()) is None else tuple(sorted(groups))

    @property
    def answers(self) -> str:
        """The name of the model that answers, with why it was chosen."""
        return self._model.name

    def known(self) -> dict[str, tuple[str, str]]:
        """The group and the model of each deployment, by its id; none where only a server knows."""
        deployments = () if self._model.config is None else self._model.config.deployments
        return {
            deployment_id(deployment): (deployment["model_name"], deployment["litellm_params"]["model"])
            for deployment in deployments
        }

    def providers(self) -> dict[str, str]:
        """The provider of each deployment, by its id, as the GenAI conventions name it; "" if unknown."""
        return {name: convention_name(model) for name, (_, model) in self.known().items()}

    def left_alone(self) -> list[OpenCircuit]:
        """The circuits of deployments that get no call now."""
        return self._circuits.open()

    async def overview(self) -> _Document:
        """The model that answers, and the groups with their deployments and missing variables.

        Asks the server where there is one. Raises ConfigError, ModelUnavailable, and Unauthorized.
        """
        server = await self._server()
        config = server or self._model.config or self._file()
        groups: list[_Document] = []
        if config is not None:
            prices = Prices(config, self._default_price, os.environ)
            groups = _groups(config, prices, None if server else os.environ)
        file = None if server or config is None else str(config.path)
        return {"answers": self._model.name, "file": file, "groups": groups}

    def route(self, group: str, tags: Sequence[str]) -> _Document:
        """The route of a call by the file, and who `answers` without reading it: a server, or offline.

        Raises ModelRefused for a group or a tag that the file does not have.
        """
        config = self._model.config or self._file()
        if config is None:
            raise ConfigError("there is no such file", path=str(self._path))
        check(config, ModelRequest(model=group, messages=(), tags=tuple(tags), user="mesh models route"))
        document = route(config, os.environ, group, tags).document()
        answers = None if self._model.config else self._model.name
        return {"answers": answers, "file": str(config.path), "tags": list(tags), **document}

    async def test(self, group: str | None) -> list[_Document]:
        """Call each deployment as agents do, of a group or all; a deployment that answers gets calls again.

        So do names that a server answers and does not list, once any of its own answers. Raises ConfigError
        where there is nothing to call.
        """
        server = await self._server()
        models = self._model.alone(group, server.groups if server else ())
        results = await _probe_all(models, price_list(self._model, self._default_price))
        answering = tuple(result["deployment"] for result in results if result["ok"])
        listed = server.groups if server is not None and answering else None

        def is_well(circuit: str) -> bool:
            of_server = listed is not None and not any(_belongs_to(circuit, group) for group in listed)
            return of_server or any(_belongs_to(circuit, deployment) for deployment in answering)

        self._circuits.close(is_well)
        return results

    def _file(self) -> LiteLLMConfig | None:
        return read_config(self._path) if self._path.is_file() else None

    async def _server(self) -> LiteLLMConfig | None:
        listing = await self._model.listed()
        if listing is None:
            return None
        return LiteLLMConfig(Path("server"), tuple(listing), {"enable_tag_filtering": True}, {}, {})


def _belongs_to(circuit: str, deployment: str) -> bool:
    """Whether a circuit is a deployment's: also of one of its models, or of a server's group with tags."""
    return circuit == deployment or circuit.startswith((f"{deployment}:", f"{deployment} #"))


def _groups(config: LiteLLMConfig, prices: Prices, environment: Mapping[str, str] | None) -> list[_Document]:
    names = sorted(config.groups, key=lambda name: (name != "default", name))
    return [
        {
            "group": name,
            "deployments": [
                {
                    "deployment": deployment_id(deployment),
                    "model": deployment["litellm_params"]["model"],
                    "tags": list(deployment_tags(deployment)),
                    "weight": deployment["litellm_params"].get("weight"),
                    "order": deployment["litellm_params"].get("order"),
                    "price": _price(prices.deployment_rates(deployment)),
                    "missing": list(missing_variables(deployment, environment)),
                }
                for deployment in config.deployments
                if deployment["model_name"] == name
            ],
            "fallbacks": {kind: list(group_fallbacks(config, name, kind)) for kind in WHEN},
        }
        for name in names
    ]


async def _probe_all(models: Mapping[str, Model], prices: PriceList) -> list[_Document]:
    places = asyncio.Semaphore(_AT_ONCE)

    async def one(group: str) -> _Document:
        async with places:
            return await probe_model(models[group], group, prices)

    return list(await asyncio.gather(*map(one, models)))


def _price(rates: Rates | None) -> _Document | None:
    """A price in dollars per million tokens, as text; `above` holds for prompts of more tokens than that."""
    if rates is None:
        return None
    above = [{"prompt_tokens": limit, **price.model_dump(mode="json")} for limit, price in rates.above]
    return {**rates.base.model_dump(mode="json"), "source": rates.source, "above": above}
