"""The prices of tokens: the deployment's own price, LiteLLM's price list, or the declared default."""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

from meshwright.core.money import MILLION, ZERO, Price, fit
from meshwright.models.config import LiteLLMConfig
from meshwright.models.port import Adapter, GuessedWindow, ModelReply, ModelRequest, ModelWindow, PriceList
from meshwright.models.providers import bare_name, writes_cache
from meshwright.models.routing import concrete_model, deployment_id, route

_Source = Literal["file", "list", "local", "default"]
"""The source of a price: litellm_config.yaml, LiteLLM's list, free since it runs here, or the setting."""

_LIST = "model_prices_and_context_window_backup.json"
_FREE_PROVIDERS = frozenset({"ollama", "ollama_chat"})
_ABOVE = re.compile(r"input_cost_per_token_above_(\d+)k_tokens")
_DATE = re.compile(r"[-@](\d{4}-\d{2}-\d{2}|\d{8})$")
_CACHED = 512  # groups with tags, and models; who calls may make up more
_FREE = Price(input=ZERO, output=ZERO)
_Entry = Mapping[str, Any]


@dataclass(frozen=True)
class Rates:
    """The price of a model, and its prices for prompts above a limit of tokens, the lowest limit first."""

    base: Price
    source: _Source
    above: tuple[tuple[int, Price], ...] = ()

    def at(self, prompt_tokens: int | None) -> Price:
        """The price of a prompt of that size; of one of unknown size, the price of the largest."""
        fitting = [price for limit, price in self.above if prompt_tokens is None or prompt_tokens > limit]
        return fitting[-1] if fitting else self.base  # limits ascend


class Prices:
    """Says what calls cost, by a configuration; without one by the name of the group, or of the one `model`.

    Only deployments that are usable in an `environment` count in `upper_bound`. A model that runs here is
    `free`. `is_guess`: neither file nor list is of the server that answers, so its windows may be others.
    """

    def __init__(
        self,
        config: LiteLLMConfig | None = None,
        default: Price | None = None,
        environment: Mapping[str, str] | None = None,
        *,
        listed: Callable[[], Mapping[str, _Entry]] | None = None,
        free: bool = False,
        model: str | None = None,
        is_guess: bool = False,
    ) -> None:
        self._config = config
        self._is_guess = is_guess
        self._model = model
        self._default = None if default is None else Rates(default, "default")
        self._environment = environment
        self._listed = lru_cache(maxsize=1)(listed or read_list)
        self._free = Rates(_FREE, "local") if free else None
        self._by_id = (
            {deployment_id(deployment): deployment for deployment in config.deployments} if config else {}
        )
        # Each call of a model asks, and a call has 0.1 ms for all of its accounts.
        self._reachable = lru_cache(maxsize=_CACHED)(self._rates_of_request)
        self._answered = lru_cache(maxsize=_CACHED)(self._rates_of_answer)
        self._named = lru_cache(maxsize=_CACHED)(self._rates_of_model)
        self._windows = lru_cache(maxsize=_CACHED)(self._window_of_call)

    def upper_bound(self, request: ModelRequest, prompt_tokens: int | None = None) -> Price | None:
        """The highest price of all deployments that could answer, fallbacks included; None if one has none.

        Input and output may be of different deployments. A prompt of unknown size may be of
        any size.
        """
        rates = self._reachable(request.model, request.tags)
        return None if rates is None else rates.at(prompt_tokens)

    def called_model(self, request: ModelRequest) -> str:
        """The model by whose name a call is priced: the one `model`, else the group."""
        return self._model or request.model

    def reply_cost(self, reply: ModelReply, request: ModelRequest) -> Decimal | None:
        """The cost of a reply by our prices; None if unknown, and 0 from a cache."""
        if reply.cache_hit:
            return ZERO
        rates = self._answered(reply.deployment, reply.model, request.model, request.tags)
        if rates is None:
            return None
        used = reply.usage
        price = rates.at(used.prompt_tokens)
        return price.cost(
            used.prompt_tokens, used.completion_tokens, used.cached_tokens, used.cache_write_tokens
        )

    def window(self, model: str, tags: tuple[str, ...]) -> ModelWindow:
        """The smallest known window of the deployments that a call is for."""
        return self._windows(model, tags)

    def _window_of_call(self, model: str, tags: tuple[str, ...]) -> ModelWindow:
        if self._config is None:
            window = _window_from(self._entry(self._model or model) or {})
            return GuessedWindow(*window) if self._is_guess else window
        path = route(self._config, self._environment, model, tags)
        windows = [
            self._deployment_window(candidate.settings, model) for candidate in (path.asked or path.instead)
        ]
        reads, writes = [window.input for window in windows], [window.output for window in windows]
        is_guess = self._is_guess or any(isinstance(window, GuessedWindow) for window in windows)
        kind = GuessedWindow if is_guess else ModelWindow
        return kind(min(filter(None, reads), default=None), min(filter(None, writes), default=None))

    def _deployment_window(self, deployment: Mapping[str, Any], name: str) -> ModelWindow:
        own = {**(deployment.get("model_info") or {}), **deployment["litellm_params"]}
        model = str(own.get("base_model") or concrete_model(deployment, name))
        window = _window_from({**(self._entry(model) or {}), **own})
        runs_here = (
            _provider_name(model) in _FREE_PROVIDERS
        )  # with a window of its server's own, often smaller
        return GuessedWindow(*window) if runs_here and own.get("max_input_tokens") is None else window

    def deployment_rates(self, deployment: Mapping[str, Any], name: str = "") -> Rates | None:
        """The rates of a deployment; for many models, the rates of the model that is called."""
        own = {**(deployment.get("model_info") or {}), **deployment["litellm_params"]}
        model = str(own.get("base_model") or concrete_model(deployment, name))
        listed = self._entry(model)
        prices = {name: own[name] for name in _PRICED.values() if own.get(name) is not None}
        if prices:
            return _rates_from({**(listed or {}), **prices}, "file") or self._default
        return self._named(model)

    def _rates_of_request(self, group: str, tags: tuple[str, ...]) -> Rates | None:
        if self._free:
            return self._free
        if self._config is None:
            return self._named(self._model or group)
        candidates = route(self._config, self._environment, group, tags).candidates()
        rates = [self._bound(candidate.settings, group) for candidate in candidates] or [self._default]
        known_rates = tuple(rate for rate in rates if rate is not None)
        return _together(known_rates) if len(known_rates) == len(rates) else None

    def _bound(self, deployment: Mapping[str, Any], name: str) -> Rates | None:
        """The highest rates of a deployment: if it writes to a provider's cache, all input at that price."""
        rates = self.deployment_rates(deployment, name)
        if rates is None or not writes_cache(deployment["litellm_params"]):
            return rates
        above = tuple((limit, _writing(price)) for limit, price in rates.above)
        return Rates(_writing(rates.base), rates.source, above)

    def _rates_of_answer(
        self, deployment: str | None, model: str, group: str, tags: tuple[str, ...]
    ) -> Rates | None:
        if self._free:
            return self._free
        if deployment in self._by_id:
            return self.deployment_rates(self._by_id[deployment], group)
        return self._candidate_rates(model, group, tags) or self._named(model)

    def _candidate_rates(self, model: str, group: str, tags: tuple[str, ...]) -> Rates | None:
        """The price of the deployment that answers to a model's name, where the reply names none."""
        if self._config is None:
            return None
        names = {model, bare_name(model), _undated(model)}
        for candidate in route(self._config, self._environment, group, tags).candidates():
            if candidate.model in names or bare_name(candidate.model) in names:
                return self.deployment_rates(candidate.settings, group)
        return None

    def _rates_of_model(self, model: str) -> Rates | None:
        entry = self._entry(model)
        if entry is not None and (rates := _rates_from(entry, "list")):
            return rates
        return Rates(_FREE, "local") if _provider_name(model) in _FREE_PROVIDERS else self._default

    def _entry(self, model: str) -> _Entry | None:
        """The entry of the list for a model: by its full name, else without provider, else without date."""
        listed = self._listed()
        if model in listed:
            return listed[model]
        for name in (bare_name(model), _undated(model)):
            entry = listed.get(name)
            offered_by = entry and entry.get("litellm_provider")  # an entry without a provider is for all
            if entry is not None and str(offered_by or _provider_name(model)).startswith(
                _provider_name(model)
            ):
                return entry
        return None


class NamedPrices(NamedTuple):
    """The price list of each name, and the one of all others."""

    by_name: dict[str, PriceList]
    others: PriceList

    def window(self, model: str, tags: tuple[str, ...]) -> ModelWindow:
        """The window by the list of the model."""
        return self.by_name.get(model, self.others).window(model, tags)

    def upper_bound(self, request: ModelRequest, prompt_tokens: int | None = None) -> Price | None:
        """The highest price by the list of the model."""
        return self.by_name.get(request.model, self.others).upper_bound(request, prompt_tokens)

    def called_model(self, request: ModelRequest) -> str:
        """The model by whose name a call is priced."""
        return self.by_name.get(request.model, self.others).called_model(request)

    def reply_cost(self, reply: ModelReply, request: ModelRequest) -> Decimal | None:
        """The cost by the list of the model that was called."""
        return self.by_name.get(request.model, self.others).reply_cost(reply, request)


_PRICED = {
    "input": "input_cost_per_token",
    "output": "output_cost_per_token",
    "cached_input": "cache_read_input_token_cost",
    "cache_write": "cache_creation_input_token_cost",
}
"""The fields of a deployment's price, in dollars per token."""


def price_list(model: Adapter, default: Price | None) -> PriceList:
    """An adapter's own price list, else the list by names of models; `default` if unknown."""
    own = model.prices(default)
    return Prices(default=default) if own is None else own


def _writing(price: Price) -> Price:
    return price.model_copy(update={"input": max(price.input, price.cache_write or ZERO)})


def _together(every: Sequence[Rates]) -> Rates:
    """The rates that none of these exceeds, for a prompt of any size."""
    limits = sorted({limit for rates in every for limit, _ in rates.above})
    above = tuple((limit, dearest(rates.at(limit + 1) for rates in every)) for limit in limits)
    return Rates(dearest(rates.base for rates in every), every[0].source, above)


def dearest(prices: Iterable[Price]) -> Price:
    """The price that none of these exceeds."""
    every = list(prices)
    return Price(input=max(price.input for price in every), output=max(price.output for price in every))


def read_list() -> Mapping[str, _Entry]:
    """LiteLLM's price list, from the installed package and without importing it.

    Without LiteLLM, the part of it for OpenAI and Anthropic that comes with Meshwright.
    """
    spec = importlib.util.find_spec("litellm")
    own = Path(__file__).with_name("prices.json")
    if spec is None or spec.origin is None:
        return _list_in(own)
    try:
        return _list_in(Path(os.path.dirname(spec.origin)) / _LIST)
    except (OSError, ValueError):  # a release without the list, or with another
        return _list_in(own)


@cache
def _list_in(path: Path) -> Mapping[str, _Entry]:
    """The list of a package, read once for all prices of the process: LiteLLM's takes megabytes."""
    from pydantic_core import from_json

    content: Mapping[str, _Entry] = from_json(path.read_bytes())
    return content


def _rates_from(entry: _Entry, source: _Source) -> Rates | None:
    """The price that an entry gives in dollars per token; None where input or output has no price."""
    base = _price_at(entry)
    limits = sorted(int(match[1]) for name in entry if (match := _ABOVE.fullmatch(name)))
    tiers = [(limit * 1000, _price_at(entry, f"_above_{limit}k_tokens")) for limit in limits]
    above = tuple((limit, price) for limit, price in tiers if price is not None)
    return None if base is None else Rates(base, source, above)


def _price_at(entry: _Entry, suffix: str = "") -> Price | None:
    """The price of one size of prompts; what it does not say is as for all sizes."""
    per_token = {field: entry.get(f"{name}{suffix}", entry.get(name)) for field, name in _PRICED.items()}
    if per_token["input"] is None or per_token["output"] is None:
        return None
    amounts = {
        field: fit(Decimal(str(value)) * MILLION).normalize()  # by its text: a float is no exact price
        for field, value in per_token.items()
        if value is not None
    }
    return Price.model_validate(amounts)


def _window_from(entry: _Entry) -> ModelWindow:
    counts = [entry.get("max_input_tokens"), entry.get("max_output_tokens")]
    return ModelWindow(*(tokens if isinstance(tokens, int) and tokens > 0 else None for tokens in counts))


def _provider_name(model: str) -> str:
    return model.partition("/")[0] if "/" in model else ""


def _undated(model: str) -> str:
    """A model's name without the date of its version: providers answer with it, and prices are without."""
    return _DATE.sub("", bare_name(model))
