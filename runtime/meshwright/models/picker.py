"""The routing: picks a deployment for each call, follows fallbacks, and leaves alone what fails."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from meshwright.core.errors import ConfigError, ModelError
from meshwright.core.money import Price
from meshwright.models.circuits import Circuits, Policy
from meshwright.models.config import LiteLLMConfig, read_config, resolved
from meshwright.models.errors import (
    AllProvidersDown,
    ContentRefused,
    ContextTooLong,
    ModelRefused,
    ModelTimeout,
    Unauthorized,
    is_mendable,
)
from meshwright.models.faults import Discretion, secrets_in
from meshwright.models.litellm import require_tested_release
from meshwright.models.port import STREAM_RESTART, Adapter, Model, ModelReply, ModelRequest, OnDelta
from meshwright.models.prices import Prices
from meshwright.models.providers import bare_name, make_adapter, needs_litellm, provider_params
from meshwright.models.reading_on import CallGivenUp, ReadingOn
from meshwright.models.routing import (
    BY_CHANCE,
    check,
    concrete_model,
    deployment_id,
    deployment_order,
    group_deployments,
    missing_variables,
    next_groups,
    no_group,
    route,
    setting,
    traffic_shares,
)

_REQUEST_TIMEOUT_SECONDS = 600.0
_PLANS = 512  # groups with tags; who calls may make up more
_NEWER = 0.3  # the weight of the newest answer in a deployment's latency


class Picker(Adapter):
    """Calls the deployments of a litellm_config.yaml.

    A deployment whose key or address is not in the environment is left out. Tags, `order` and the strategy
    choose a deployment of the group. If it fails and another could succeed, the next deployment is tried,
    then the group's fallbacks. All of that is one attempt, within the request's own deadline. A deployment
    that fails too often cools down.
    """

    kind = "router"

    def __init__(
        self,
        config: Path | LiteLLMConfig,
        *,
        environment: Mapping[str, str] | None = None,
        circuits: Circuits | None = None,
        name: str = "",
        why: str = "",
    ) -> None:
        """Read and check the file.

        Raises ConfigError: also where no deployment can be called, and with an untested release of LiteLLM
        where a deployment needs it.
        """
        self.environment = os.environ if environment is None else environment
        self.config = self._config = read_config(config) if isinstance(config, Path) else config
        self._circuits = circuits or Circuits()
        strategy = self._config.router_settings.get("routing_strategy") or BY_CHANCE
        if strategy not in _STRATEGIES:
            lines, expected = self._config.lines, ", ".join(_STRATEGIES)
            raise ConfigError(
                f"router_settings.routing_strategy: there is no strategy {strategy!r}: expected {expected}",
                path=str(self._config.path),
                line=lines.get("routing_strategy") or lines.get(""),
            )
        self._strategy = _STRATEGIES[strategy]
        self._prices = Prices(self._config, None, self.environment)
        self._targets = self._make_targets()
        share = f"{len(self._targets)} of {len(self._config.deployments)} deployments"
        self.name = name or f"router {self._config.path.name} ({f'{why}; ' if why else ''}{share})"
        self._plan = lru_cache(maxsize=_PLANS)(self._make_plan)  # file and environment are fixed

    async def complete(self, request: ModelRequest, on_delta: OnDelta | None = None) -> ModelReply:
        """Make one attempt, fallbacks included. Raises ModelError."""
        check(self._config, request)
        ends = time.monotonic() + request.timeout_seconds
        groups, visited = [request.model], {request.model}  # in order; no group twice
        errors: list[ModelError] = []
        lost_replies: tuple[ModelReply, ...] = ()
        failed_at: tuple[str, ...] = ()
        failed_with: tuple[str, ...] = ()
        while groups:
            group = groups.pop(0)
            error: ModelError | None = None
            for target in self._in_turn(group, request):
                if errors and on_delta is not None:
                    on_delta(STREAM_RESTART)  # the text of the attempt that failed is void
                try:
                    async with self._placed(target, group, request, ends):
                        started = time.monotonic()
                        remaining = min(ends - started, target.timeout_seconds)  # the wait is over
                        changes = {"model": target.model_for(group), "timeout_seconds": remaining}
                        reply = await target.model.complete(request.model_copy(update=changes), on_delta)
                    target.answered(reply, time.monotonic() - started)
                    reply = self._priced(reply, request, target, attempts=len(errors) + 1)
                    before = {"lost": lost_replies, "failed_at": failed_at, "failed_with": failed_with}
                    return reply.model_copy(update=before) if errors else reply
                except asyncio.CancelledError as cancelled:
                    if isinstance(failed := cancelled.__cause__, ModelError | CallGivenUp):
                        tries = len(errors) + 1
                        replies = (
                            self._priced(reply, request, target, attempts=tries) for reply in failed.lost
                        )
                        failed.lost = (*lost_replies, *replies)
                    raise
                except ModelError as failed:
                    error = failed
                    tries = len(errors) + 1
                    lost_replies += tuple(  # streams that broke off, which the provider may bill
                        self._priced(cut, request, target, attempts=tries) for cut in failed.lost
                    )
                    errors.append(failed)
                    failed_at += (target.name,)
                    failed_with += (failed.code,)
                if not is_mendable(error) or time.monotonic() >= ends:
                    break
            if error is None:
                error = self._nobody(group, request)
                errors.append(error)
            following = self._after(group, error, visited) if time.monotonic() < ends else list[str]()
            if not following and not is_mendable(error):
                error.lost, error.failed_at, error.failed_with = lost_replies, failed_at, failed_with
                error.away = tuple(self._away(visited, request))
                raise error
            groups[:0] = following  # its fallbacks come before its siblings
        final_error = _ended(errors, request)
        final_error.lost, final_error.failed_at = lost_replies, failed_at
        final_error.failed_with = failed_with
        final_error.away = tuple(self._away(visited, request))
        raise final_error

    async def close(self) -> None:
        """Give back connections."""
        for target in self._targets.values():
            await target.close()

    def groups(self) -> frozenset[str]:
        """The names that callers may give as `model`."""
        return self._config.groups

    def prices(self, default: Price | None) -> Prices:
        """The prices of the deployments."""
        return Prices(self._config, default, self.environment)

    def alone(self, group: str | None, names: Collection[str]) -> dict[str, Model]:
        """Its usable deployments by their ids."""
        members = self._config.deployments if group is None else group_deployments(self._config, group)
        if members is None:
            what, remedy = no_group(self._config, str(group))
            raise ConfigError(what, remedy=remedy)
        usable = [name for name in map(deployment_id, members) if name in self._targets]
        if not usable:
            raise ConfigError("no deployment can be called", remedy=self._what_to_set(members))
        return {name: _Alone(self._targets[name], self._priced) for name in usable}

    def _make_targets(self) -> dict[str, _Target]:
        usable = {
            deployment_id(deployment): _completed(deployment, self.environment)
            for deployment in self._config.deployments
            if not missing_variables(deployment, self.environment)
        }
        if any(needs_litellm(deployment["litellm_params"]) for deployment in usable.values()):
            require_tested_release()
        if not usable:
            what, remedy = "the key or address of every deployment is missing", self._what_to_set()
            raise ConfigError(what, path=str(self._config.path), remedy=remedy)
        discretion = Discretion([*secrets_in(list(usable.values())), *secrets_in(self.environment)])
        return {
            name: _Target(name, deployment, self._config, discretion) for name, deployment in usable.items()
        }

    def _what_to_set(self, deployments: Iterable[Mapping[str, Any]] = ()) -> str:
        candidates = deployments or self._config.deployments
        names = {
            name for deployment in candidates for name in missing_variables(deployment, self.environment)
        }
        return f"Set one of {', '.join(sorted(names))}"

    def _make_plan(self, group: str, tags: tuple[str, ...]) -> _Plan:
        model_route = route(self._config, self.environment, group, tags)
        tiers: dict[int | None, list[_Target]] = {}
        for candidate in model_route.asked:
            tiers.setdefault(deployment_order(candidate.settings), []).append(
                self._targets[candidate.deployment]
            )
        return _Plan(
            list(tiers.values()), [self._targets[candidate.deployment] for candidate in model_route.instead]
        )

    def _in_turn(self, group: str, request: ModelRequest) -> Iterator[_Target]:
        """The targets to ask, each once: by order, then the stand-ins where all others cool down."""
        tiers, instead = self._plan(group, request.tags)
        tried_names: set[str] = set()
        for stands_in, tier in [*((False, tier) for tier in tiers), (True, instead)]:
            while not (stands_in and tried_names):
                ready = [  # after each try: limits and circuits may have changed meanwhile
                    target
                    for target in tier
                    if target.name not in tried_names
                    and target.has_room()
                    and not self._circuits.left_seconds(target.circuit(group), request)
                ]
                if not ready:
                    break
                target = ready[0] if len(ready) == 1 else self._strategy(ready, self._prices)
                tried_names.add(target.name)
                yield target

    @asynccontextmanager
    async def _placed(
        self, target: _Target, group: str, request: ModelRequest, ends: float
    ) -> AsyncIterator[None]:
        """Take one of a deployment's places for a call, whose failure may open its circuit."""
        target.calls += 1  # before the wait for a place: rpm counts calls that queue
        # Of a call that had little time left, a timeout is no fault of the deployment.
        given_seconds = min(ends - time.monotonic(), target.timeout_seconds)
        with self._circuits.call(target.circuit(group), target.policy, given_seconds, request):
            async with AsyncExitStack() as places:
                await target.enter(places, ends, request)
                yield

    def _priced(
        self, reply: ModelReply, request: ModelRequest, target: _Target, *, attempts: int
    ) -> ModelReply:
        changes: dict[str, Any] = {"deployment": target.name, "attempts": attempts}
        if reply.cost_usd is None and reply.cost_source != "estimated":
            of_target = reply.model_copy(update={"deployment": target.name})
            cost = self._prices.reply_cost(of_target, request)
            changes |= {} if cost is None else {"cost_usd": cost, "cost_source": "priced"}
        return reply.model_copy(update=changes)

    def _after(self, group: str, error: ModelError, visited: set[str]) -> list[str]:
        kind = "fallbacks"
        if isinstance(error, ContextTooLong):
            kind = "context_window_fallbacks"
        elif isinstance(error, ContentRefused):
            kind = "content_policy_fallbacks"
        elif not is_mendable(error):
            return []
        following = [name for name in next_groups(self._config, group, kind) if name not in visited]
        visited.update(following)
        return following

    def _away(self, groups: Iterable[str], request: ModelRequest) -> Iterator[str]:
        """The deployments of some groups that are left alone, by the names of their circuits."""
        for group in sorted(groups):
            tiers, instead = self._plan(group, request.tags)
            for target in [*chain.from_iterable(tiers), *instead]:
                if self._circuits.left_seconds(target.circuit(group), request):
                    yield from dict.fromkeys((target.name, target.circuit(group)))

    def _nobody(self, group: str, request: ModelRequest) -> ModelError:
        tags = request.tags
        targets = [target for tier in self._plan(group, tags).tiers for target in tier]
        if not targets:
            members = group_deployments(self._config, group) or ()
            if not any(deployment_id(deployment) in self._targets for deployment in members):
                return Unauthorized(f"The key or address of every deployment of model {group!r} is missing")
            remedy = "Tag one deployment of the group with default"
            return ModelRefused(f"no deployment of model {group!r} is for tags {list(tags)}", remedy=remedy)
        names = [target.circuit(group) for target in targets]
        waits = {name: seconds for name in names if (seconds := self._circuits.left_seconds(name, request))}
        if waits:
            met = [error for name in waits if (error := self._circuits.error(name, request)) is not None]
            refusals = [error for name in waits if (error := self._circuits.refusal(name)) is not None]
            if len(refusals) == len(targets):  # a person may mend that: a pause alone does not
                return min(refusals, key=lambda refusal: refusal.retry_after_seconds or 0.0)
            fit = f" that fit tags {list(tags)}" if tags else ""
            what = f"All deployments of model {group!r}{fit} are cooling down"
            down = AllProvidersDown(
                f"{what}, after: {met[0]}" if met else what, retry_after_seconds=min(waits.values())
            )
            down.reason = met[0].reason if met else ""
            return down
        what = f"All deployments of model {group!r} are at their limit (rpm, tpm)"
        return AllProvidersDown(what, retry_after_seconds=60 - time.time() % 60)  # the counts start again


class _Plan(NamedTuple):
    tiers: list[list[_Target]]
    instead: list[_Target]


class _Target:
    """A deployment that can be called, and the results of its calls in this process."""

    def __init__(
        self, name: str, deployment: Mapping[str, Any], config: LiteLLMConfig, discretion: Discretion
    ) -> None:
        self.name = name
        self.deployment = deployment
        self.calls = 0
        self.tokens = 0
        self.in_flight = 0
        self.latency_seconds = 0.0  # a moving average
        params = deployment["litellm_params"]
        own_limits = (params.get("timeout"), config.router_settings.get("timeout"))
        limits = (*own_limits, config.litellm_settings.get("request_timeout"), _REQUEST_TIMEOUT_SECONDS)
        self.timeout_seconds = next(float(seconds) for seconds in limits if seconds is not None)
        router = config.router_settings
        allowed = setting(config, "allowed_fails")
        cooldown = params.get("cooldown_time") or router.get("cooldown_time")
        self.policy = Policy(
            Policy().allowed_fails if allowed is None else int(allowed),
            Policy().cooldown_seconds if cooldown is None else float(cooldown),
            is_off=bool(router.get("disable_cooldowns")),
        )
        self._config = config
        self._discretion = discretion
        self._model: Model | None = None
        self._minute = 0
        places = params.get("max_parallel_requests") or setting(config, "default_max_parallel_requests")
        self._places = asyncio.Semaphore(int(places)) if places else None

    @property
    def model(self) -> Model:
        if self._model is None:  # at its first call: most processes call few of a file's deployments
            drop_params = bool(self._config.litellm_settings.get("drop_params", False))
            params = self.deployment["litellm_params"]
            self._model = ReadingOn(make_adapter(params, self._discretion, drop_params=drop_params))
        return self._model

    async def close(self) -> None:
        if self._model is not None:
            await self._model.close()

    def model_for(self, group: str) -> str:
        """The model that it is asked for; of a deployment for many names that which the call names."""
        return bare_name(concrete_model(self.deployment, group))

    def has_room(self) -> bool:
        """Whether calls and tokens are left in this minute, which is the clock's."""
        minute = int(time.time() // 60)
        if minute != self._minute:
            self._minute, self.calls, self.tokens = minute, 0, 0
        params = self.deployment["litellm_params"]
        limits = {"rpm": self.calls, "tpm": self.tokens}
        return all(params.get(name) is None or used < params[name] for name, used in limits.items())

    async def enter(self, places: AsyncExitStack, ends: float, request: ModelRequest) -> None:
        if self._places is not None:
            try:
                async with asyncio.timeout(ends - time.monotonic()):
                    await places.enter_async_context(self._places)
            except TimeoutError:
                what = (
                    f"No place for a call of model {request.model!r} in {request.timeout_seconds:g} seconds"
                )
                raise ModelTimeout(what) from None
        self.in_flight += 1
        places.callback(self._leave)

    def answered(self, reply: ModelReply, seconds: float) -> None:
        self.tokens += reply.usage.prompt_tokens + reply.usage.completion_tokens
        self.latency_seconds += (seconds - self.latency_seconds) * (_NEWER if self.latency_seconds else 1)

    def circuit(self, group: str) -> str:
        """The name of its circuit; of a deployment for many models each has its own."""
        return f"{self.name}:{self.model_for(group)}" if "*" in self.deployment["model_name"] else self.name

    def _leave(self) -> None:
        self.in_flight -= 1


class _Alone:
    """One deployment of a picker, called without fallbacks, limits and circuits."""

    def __init__(self, target: _Target, priced: Callable[..., ModelReply]) -> None:
        self.name = target.name
        self._target = target
        self._priced = priced

    async def complete(self, request: ModelRequest, on_delta: OnDelta | None = None) -> ModelReply:
        target = self._target
        seconds = min(request.timeout_seconds, target.timeout_seconds)
        changes = {"model": target.model_for(target.deployment["model_name"]), "timeout_seconds": seconds}
        reply = await target.model.complete(request.model_copy(update=changes), on_delta)
        return self._priced(reply, request, target, attempts=1)

    @property
    def opened_connections(self) -> int | None:
        """The connections that its API has opened so far; None where that is not known."""
        return getattr(self._target.model, "opened_connections", None)

    async def close(self) -> None:
        """Nothing: the connections are the picker's."""


def _by_least(measure: Callable[[_Target, Prices], float]) -> Callable[[Sequence[_Target], Prices], _Target]:
    def pick(ready: Sequence[_Target], prices: Prices) -> _Target:
        measured = [measure(target, prices) for target in ready]
        least = min(measured)
        return random.choice(
            [target for target, value in zip(ready, measured, strict=True) if value == least]
        )

    return pick


def _price(target: _Target, prices: Prices) -> float:
    rates = prices.deployment_rates(target.deployment)
    return float("inf") if rates is None else float(rates.base.input + rates.base.output)


_STRATEGIES: dict[str, Callable[[Sequence[_Target], Prices], _Target]] = {
    BY_CHANCE: lambda ready, _: random.choices(ready, traffic_shares([it.deployment for it in ready]))[0],
    "latency-based-routing": _by_least(lambda target, prices: target.latency_seconds),
    "least-busy": _by_least(lambda target, prices: target.in_flight),
    **dict.fromkeys(
        ("usage-based-routing", "usage-based-routing-v2"), _by_least(lambda target, prices: target.tokens)
    ),
    "cost-based-routing": _by_least(_price),
}


def _completed(deployment: Mapping[str, Any], environment: Mapping[str, str]) -> dict[str, Any]:
    """A deployment with what its references stand for, and the provider's usual key and address."""
    params = deployment["litellm_params"]
    usual = {
        param.name: value
        for param in provider_params(params["model"])
        if param.name not in params and (value := param.value(environment))
    }
    completed: dict[str, Any] = resolved({**deployment, "litellm_params": {**usual, **params}}, environment)
    return completed


def _ended(errors: Sequence[ModelError], request: ModelRequest) -> ModelError:
    """The error of a call without an answer: the only one, or a summary of all."""
    if len(errors) == 1 or not any(error.retryable for error in errors):
        return errors[0]
    pauses = [error.retry_after_seconds for error in errors if error.retry_after_seconds is not None]
    reasons = "; ".join(dict.fromkeys(map(str, errors)))
    down = AllProvidersDown(
        f"Neither model {request.model!r} nor its fallbacks answered: {reasons}",
        # One that names no pause may be asked at once.
        retry_after_seconds=min(pauses, default=None) if len(pauses) == len(errors) else None,
    )
    down.attempts = sum(error.attempts for error in errors)
    down.reason = "; ".join(dict.fromkeys(error.reason for error in errors if error.reason))
    return down
