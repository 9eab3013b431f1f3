"""Models by LiteLLM's Router inside this process: every provider, from one litellm_config.yaml."""

from __future__ import annotations

import asyncio
import copy
import importlib.util
import logging
import os
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

from meshwright.errors import ConfigError, ModelError
from meshwright.models.config import FALLBACKS, LiteLLMConfig, missing_names, read_config, resolved
from meshwright.models.faults import Fault, error_for, read_retry_after
from meshwright.models.port import (
    ContextTooLong,
    ModelRefused,
    ModelReply,
    ModelRequest,
    ModelTimeout,
    ModelUnavailable,
    OnDelta,
    RateLimited,
    ToolCall,
)
from meshwright.models.wire import completion_body, not_a_completion, read_cost, read_usage

FREE_PROVIDERS = frozenset({"ollama", "ollama_chat"})
SOURCE = "LiteLLM's Router"
CLIENTS = frozenset({"litellm", "openai", "httpx"})
LOGGERS = ("LiteLLM", "LiteLLM Router", "LiteLLM Proxy", "litellm")
# Settings of the file's other section that the Router takes as arguments.
SHARED = (*FALLBACKS, "default_fallbacks", "allowed_fails", "max_fallbacks")


class RouterModel:
    """Calls LiteLLM's Router. It is imported at the first call (about two seconds), in a thread.

    A deployment whose key or address is not in the environment is left out. Of `litellm_settings` only
    fallbacks, `drop_params` and `request_timeout` count here; the rest is for a proxy. One attempt a call
    (fallbacks are a part of it), within the request's own deadline. No error holds a key or a prompt.
    """

    def __init__(
        self, config_path: Path, *, environment: Mapping[str, str] | None = None, why: str = ""
    ) -> None:
        """Read and check the file. Raises ConfigError: also without LiteLLM, or with no usable deployment."""
        if not litellm_is_installed():
            raise ConfigError(
                "The in-process router needs LiteLLM, which is not installed",
                remedy="In a checkout of Meshwright: pip install -e '.[litellm]'",
                field="model",
            )
        self.environment = os.environ if environment is None else environment
        self.config = read_config(config_path)
        self.deployments = usable_deployments(self.config, self.environment)
        share = f"{len(self.deployments)} of {len(self.config.deployments)} deployments"
        self.name = f"router {config_path.name} ({f'{why}; ' if why else ''}{share})"
        self._router: Any = None
        self._loading: asyncio.Task[Any] | None = None

    async def load(self) -> Any:
        """Import LiteLLM and build its Router, if that is not done; a call does it by itself. Returns it."""
        if self._loading is None:
            self._loading = asyncio.create_task(asyncio.to_thread(self._build))
        self._router = await asyncio.shield(self._loading)  # one cancelled caller stops nobody else's load
        return self._router

    async def complete(self, request: ModelRequest, on_delta: OnDelta | None = None) -> ModelReply:
        """Make one attempt; cancelling it closes its connection. Raises ModelError, or ConfigError."""
        if request.model not in self.config.groups:
            # Left to the Router, a misspelt name would be answered by the default fallback.
            raise ModelRefused(
                f"{self.config.path.name} has no model group {request.model!r}",
                remedy=f"Groups are {', '.join(sorted(self.config.groups))}",
            )
        router = self._router or await self.load()
        try:
            async with asyncio.timeout(request.timeout_seconds):
                response = await router.acompletion(**self._arguments(request))
        except TimeoutError:
            what = f"No reply from model {request.model!r} in {request.timeout_seconds:g} seconds"
            raise ModelTimeout(what) from None
        except Exception as error:  # noqa: BLE001 - LiteLLM raises whatever its providers' clients raise
            raise translated(error, request) from None
        return read_response(response, request)

    async def close(self) -> None:
        """Unhook the Router from LiteLLM's globals, and close the clients that this event loop uses.

        LiteLLM shares clients between Routers of a loop: another mesh on it makes itself new ones.
        """
        if self._loading is None:
            return
        await asyncio.wait([self._loading])
        loading, self._loading, self._router = self._loading, None, None
        if loading.exception() is None:  # else its callers were told, and there is nothing to close
            loading.result().discard()
            await close_clients_of(asyncio.get_running_loop())

    def _build(self) -> Any:
        # Without these, the import fetches prices over the network and reads any .env file above this folder.
        os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
        os.environ.setdefault("LITELLM_MODE", "PRODUCTION")
        silence_loggers()
        try:
            import litellm
            from litellm import Router, validate_environment
        except ImportError as error:
            remedy = "Install it anew: pip install --force-reinstall litellm"
            raise ConfigError(f"LiteLLM cannot be imported: {error}", remedy=remedy) from error
        litellm.suppress_debug_info = True  # else it prints advice on each error
        settings = {**shared_settings(self.config), **self.config.router_settings}
        if unknown := sorted(settings.keys() - set(Router.get_valid_args())):
            raise self._refusal(f"LiteLLM's Router knows no {unknown[0]!r}", unknown[0])
        if missing := sorted(missing_names(settings, self.environment)):
            raise self._refusal(f"{missing[0]} is not set in the environment")
        deployments = [
            without_retries(each) for each in self.deployments if has_keys(each, validate_environment)
        ]
        if not deployments:
            raise no_deployment(self.config, set())
        try:
            return Router(model_list=deployments, **copy.deepcopy(resolved(settings, self.environment)))
        except Exception as error:  # noqa: BLE001 - of a value that it does not accept, it raises anything
            raise self._refusal(f"LiteLLM's Router does not accept them ({type(error).__name__})") from None

    def _refusal(self, message: str, setting: str = "") -> ConfigError:
        # No word of LiteLLM's own: it may quote a deployment, and with it the key.
        line = self.config.lines.get(setting) or self.config.lines.get("")
        return ConfigError(f"router_settings: {message}", path=str(self.config.path), line=line)

    def _arguments(self, request: ModelRequest) -> dict[str, Any]:
        # A fresh copy: the Router writes into metadata, and would merge one call's tags into the next.
        body = copy.deepcopy(completion_body(request))
        del body["tags"]  # in process the Router routes by metadata.tags; these it would pass on as unknown
        drop_params = self.config.litellm_settings.get("drop_params", False)
        # Stronger than what the file says of the Router: the mesh owns the retries.
        return {**body, "num_retries": 0, "max_retries": 0, "drop_params": drop_params}


def silence_loggers() -> None:
    """Let no record of LiteLLM's reach a handler: they quote requests and replies, and hold tracebacks.

    What went wrong is told by the error alone. Filters hold whatever LiteLLM's import and settings do.
    """
    for name in LOGGERS:
        logging.getLogger(name).addFilter(reject)
    logging.getLogger("asyncio").addFilter(is_ours)  # tells of tasks that LiteLLM starts and leaves alone
    package = logging.getLogger("litellm")
    package.propagate = False
    package.addHandler(logging.NullHandler())  # with no handler at all, Python prints to stderr


def reject(record: logging.LogRecord) -> bool:
    """Let no record pass."""
    return False


def is_ours(record: logging.LogRecord) -> bool:
    """Whether a record holds no error of LiteLLM's or of a client that it calls by."""
    error = record.exc_info[1] if record.exc_info else None
    return type(error).__module__.partition(".")[0] not in CLIENTS


def litellm_is_installed() -> bool:
    """Whether the extra is there; asks without importing it."""
    return importlib.util.find_spec("litellm") is not None


def usable_deployments(config: LiteLLMConfig, environment: Mapping[str, str]) -> list[dict[str, Any]]:
    """The deployments of which every reference is set, resolved. Raises ConfigError if there are none."""
    usable = [
        resolved(each, environment) for each in config.deployments if not missing_names(each, environment)
    ]
    if not usable:
        raise no_deployment(config, missing_names(list(config.deployments), environment))
    return usable


def no_deployment(config: LiteLLMConfig, missing: set[str]) -> ConfigError:
    """The error for a configuration of which nothing can be called."""
    names = f"one of {', '.join(sorted(missing))}" if missing else "the keys of its providers"
    return ConfigError(
        "the key or address of every deployment is missing", path=str(config.path), remedy=f"Set {names}"
    )


def has_keys(deployment: Mapping[str, Any], validate_environment: Any) -> bool:
    """Whether LiteLLM finds the provider's key; a missing one would later look like a server's fault."""
    params = deployment["litellm_params"]
    given = {name: params.get(name) for name in ("api_key", "api_base")}
    return bool(given["api_key"]) or not validate_environment(params["model"], **given)["missing_keys"]


def without_retries(deployment: Mapping[str, Any]) -> dict[str, Any]:
    """The deployment with no retries of its own: the mesh owns them."""
    return {
        **deployment,
        "litellm_params": {**deployment["litellm_params"], "max_retries": 0, "num_retries": 0},
    }


def shared_settings(config: LiteLLMConfig) -> dict[str, Any]:
    """The Router's arguments that a file may also give under `litellm_settings`."""
    settings = config.litellm_settings
    shared = {name: settings[name] for name in SHARED if name in settings}
    return {**shared, "timeout": settings["request_timeout"]} if "request_timeout" in settings else shared


def read_response(response: Any, request: ModelRequest) -> ModelReply:
    """Read the Router's reply."""
    try:
        choice = response.choices[0]
        return ModelReply(
            content=choice.message.content or "",
            tool_calls=tuple(read_call(call) for call in choice.message.tool_calls or ()),
            model=response.model or request.model,
            usage=read_usage(dict(response.usage or {})),
            cost_usd=cost_of(response._hidden_params),
            finish_reason=choice.finish_reason or "stop",
        )
    except (IndexError, AttributeError, TypeError, ValueError):
        raise not_a_completion(SOURCE) from None


def cost_of(hidden: Mapping[str, Any]) -> Decimal | None:
    """What a call cost: nothing from a cache; None where a 0 only stands for a price that is not known."""
    if hidden.get("cache_hit"):
        return Decimal(0)
    cost = read_cost(hidden.get("response_cost"))
    return cost if cost or hidden.get("custom_llm_provider") in FREE_PROVIDERS else None


def read_call(call: Any) -> ToolCall:
    """Read one tool call; its arguments are passed on as they came."""
    return ToolCall(id=call.id, name=call.function.name, arguments=call.function.arguments or "{}")


def translated(error: Exception, request: ModelRequest) -> ModelError:
    """Make our error of one of LiteLLM's, by its class and status: its text quotes requests and replies."""
    kinds = {kind.__name__ for kind in type(error).__mro__}
    status = getattr(error, "status_code", None)
    what = f"{SOURCE} has no model {request.model!r} for tags {list(request.tags)}"
    if "ContextWindowExceededError" in kinds:
        return ContextTooLong(
            f"The messages do not fit model {request.model!r}", remedy="Shorten the context"
        )
    if "RouterRateLimitError" in kinds:
        return RateLimited(
            f"{what}: all are cooling down", retry_after_seconds=getattr(error, "cooldown_time", None)
        )
    if "Timeout" in kinds:
        return ModelTimeout(f"No reply from model {request.model!r} in time")
    if kinds & {"APIConnectionError", "InternalServerError"}:  # also what a refused connection becomes
        return ModelUnavailable(
            f"The provider of model {request.model!r} is at fault or out of reach ({type(error).__name__})",
            remedy="Check that its address answers",
        )
    if not isinstance(status, int):
        remedy = "Tag one deployment of the group with default, and check budgets and limits"
        return ModelRefused(f"{what} ({type(error).__name__})", remedy=remedy)
    headers = getattr(error, "litellm_response_headers", None) or {}
    fault = Fault(status, retry_after_seconds=read_retry_after(headers))
    return error_for(fault, source=SOURCE, model=request.model)


async def close_clients_of(loop: asyncio.AbstractEventLoop) -> None:
    """Close the HTTP clients that LiteLLM keeps for an event loop; their keys end with its id."""
    import litellm

    clients = litellm.in_memory_llm_clients_cache.cache_dict
    for key in [key for key in clients if str(key).endswith(f"-{id(loop)}")]:
        client = clients.pop(key)
        close = getattr(client, "close", None) or getattr(client, "aclose", None)
        if close is not None:
            await close()
