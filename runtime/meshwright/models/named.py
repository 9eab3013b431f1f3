"""Models that agents name outright, beside the one model that a mesh has for its groups."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Protocol

from meshwright.errors import ConfigError
from meshwright.models.config import read_config
from meshwright.models.direct import Chain, DirectModel, with_fallbacks
from meshwright.models.http import HttpModel
from meshwright.models.offline import OfflineModel
from meshwright.models.port import Model, ModelReply, ModelRequest, OnDelta
from meshwright.models.prices import Prices
from meshwright.models.providers import OFFLINE
from meshwright.models.router import RouterModel
from meshwright.money import Price

DEFAULT_GROUP = "default"


class ByName:
    """Gives each request to the model of its name, and every other name to `otherwise`."""

    def __init__(self, models: Mapping[str, Model], otherwise: Model) -> None:
        self.models = dict(models)
        self.otherwise = otherwise
        self.name = f"{otherwise.name}; by name {', '.join(models)}"

    async def complete(self, request: ModelRequest, on_delta: OnDelta | None = None) -> ModelReply:
        """Make one attempt. Raises ModelError."""
        return await self.models.get(request.model, self.otherwise).complete(request, on_delta)

    async def close(self) -> None:
        """Close each model once."""
        for model in {id(each): each for each in (*self.models.values(), self.otherwise)}.values():
            await model.close()


class NamedPrices:
    """What calls cost where models are named outright; those of every other name as `otherwise` says."""

    def __init__(self, model: ByName, otherwise: Prices, default: Price | None = None) -> None:
        """`default` is the price of a named model whose price nobody knows."""
        self._otherwise = otherwise
        self._named = {name: prices_of(each, default) for name, each in model.models.items()}

    def most(self, request: ModelRequest, prompt_tokens: int | None = None) -> Price | None:
        """The dearest price of all that could answer, as `Prices.most`."""
        return self._of(request).most(request, prompt_tokens)

    def of_reply(self, reply: ModelReply, request: ModelRequest) -> Decimal | None:
        """What a reply cost, as `Prices.of_reply`."""
        return self._of(request).of_reply(reply, request)

    def _of(self, request: ModelRequest) -> Prices:
        return self._named.get(request.model, self._otherwise)


def prices_of(model: Model, default: Price | None) -> Prices:
    """The prices of one model that is named outright; the built-in one is free."""
    if isinstance(model, DirectModel):
        return Prices.of(model.router.config, default, model.router.environment)
    return Prices.free()


class Wish(Protocol):
    """What says which model it wants: an agent class. No `model` leaves it to the prompt."""

    agent_id: str
    model: str
    fallbacks: Sequence[str]


def by_name(
    otherwise: Model,
    wishes: Iterable[Wish],
    config_path: Path | None = None,
    *,
    environment: Mapping[str, str] | None = None,
) -> Model:
    """The mesh's model, and beside it those that agents name and that are no groups of its file.

    A server (`http`) gets every name as it stands: which there are is its own business. The file need not
    exist. Raises ConfigError, naming the agent, where a model cannot be called.
    """
    if isinstance(otherwise, HttpModel):
        return otherwise
    groups = groups_of(otherwise, config_path)
    wanted = unique(wish for wish in wishes if wish.model)
    models: dict[str, Model] = {}
    if OFFLINE in wanted and OFFLINE not in groups:
        models[OFFLINE] = otherwise if isinstance(otherwise, OfflineModel) else OfflineModel()
    chains = [
        chain_of(wish, environment) for wish in wanted.values() if not answered(wish, {*groups, *models})
    ]
    if chains:
        direct = DirectModel(chains, environment=environment)
        models |= dict.fromkeys(direct.chains, direct)
    return ByName(models, otherwise) if models else otherwise


def groups_of(model: Model, config_path: Path | None) -> frozenset[str]:
    """The names that are groups, also where no key is set and the built-in model answers for them."""
    if isinstance(model, RouterModel):
        return model.config.groups
    if config_path is not None and config_path.is_file():
        return read_config(config_path).groups
    return frozenset({DEFAULT_GROUP})


def unique(wishes: Iterable[Wish]) -> dict[str, Wish]:
    """The wishes by the model they name. Raises ConfigError where two give one model different fallbacks."""
    found: dict[str, Wish] = {}
    for wish in wishes:
        other = found.setdefault(wish.model, wish)
        if tuple(other.fallbacks) != tuple(wish.fallbacks):
            raise ConfigError(
                f"agents {other.agent_id} and {wish.agent_id} give model {wish.model!r} different fallbacks",
                remedy="give both the same, or make a group of each in litellm_config.yaml",
                field="fallbacks",
            )
    return found


def answered(wish: Wish, names: Container[str]) -> bool:
    """Whether a name is taken care of already. Raises ConfigError where it wants fallbacks nevertheless."""
    if wish.model in names and wish.fallbacks:
        raise ConfigError(
            f"agent {wish.agent_id} gives fallbacks to {wish.model!r}, which is a group",
            remedy="write them under router_settings.fallbacks in litellm_config.yaml",
            field="fallbacks",
        )
    return wish.model in names


def chain_of(wish: Wish, environment: Mapping[str, str] | None) -> Chain:
    """The chain that an agent wants. Raises ConfigError with the agent's name."""
    try:
        return with_fallbacks(wish.model, tuple(wish.fallbacks), environment=environment)
    except ConfigError as error:
        raise ConfigError(
            f"agent {wish.agent_id}: {error.message}", remedy=error.remedy, field=error.field
        ) from None
