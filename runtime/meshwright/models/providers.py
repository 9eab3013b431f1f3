"""The providers of models: their names, which variables open them (`providers.toml`), and who calls them.

Any other provider that LiteLLM knows works too, by LiteLLM's own names for its variables.
"""

from __future__ import annotations

import importlib.util
import json
import re
import tomllib
import warnings
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import Any

from meshwright.core.errors import ConfigError
from meshwright.models.anthropic import URL as ANTHROPIC_URL
from meshwright.models.anthropic import AnthropicMessages
from meshwright.models.config import known_names
from meshwright.models.faults import Discretion
from meshwright.models.http import ApiModel, Wire
from meshwright.models.litellm import LiteLLMModel
from meshwright.models.openai import ChatCompletions
from meshwright.models.port import Model

OFFLINE = "offline"
"""The name of the built-in model, which needs no provider and no credentials."""
_LITELLM_LIST = "provider_endpoints_support_backup.json"
"""The file of the `litellm` package that lists its providers."""
_DATA = tomllib.loads(Path(__file__).with_name("providers.toml").read_text("utf-8"))
_SAME: dict[str, str] = _DATA["same"]
ALIASES: dict[str, str] = _DATA["aliases"]
"""Names of models of yesterday, and what does their work today."""


class LegacyModelName(FutureWarning):
    """A model was asked for by a name that stands for another today."""


@dataclass(frozen=True, slots=True)
class _Param:
    """One of LiteLLM's parameters of a deployment, and the variables that give it: the first that is set."""

    name: str
    variables: tuple[str, ...]
    default: str | None = None
    optional: bool = False

    def value(self, environment: Mapping[str, str]) -> str | None:
        """The reference to its value (`os.environ/NAME`), so that nothing here ever holds a key."""
        variable = next((name for name in self.variables if environment.get(name)), None)
        return f"os.environ/{variable}" if variable else self.default

    def misses(self, environment: Mapping[str, str]) -> bool:
        return not self.optional and self.value(environment) is None


@dataclass(frozen=True, slots=True)
class Provider:
    """A provider. `families` are prefixes of names that need no `provider/` before them.

    `console` is where to get credentials; `package` must be importable, in addition to LiteLLM.
    """

    name: str
    title: str
    example: str
    params: tuple[_Param, ...] = ()
    console: str = ""
    families: tuple[str, ...] = ()
    package: str = ""

    def variable(self, suffix: str) -> str:
        """The name of one of its own variables: `OPENAI_TIMEOUT_SECONDS`."""
        return f"{re.sub(r'[^A-Za-z0-9]', '_', self.name).upper()}_{suffix}"


def _provider(data: dict[str, Any]) -> Provider:
    entries: list[dict[str, Any]] = data["params"]
    params = [_Param(**(param | {"variables": tuple(param["variables"])})) for param in entries]
    fields: dict[str, Any] = {"params": tuple(params), "families": tuple(data.get("families", ()))}
    return Provider(**(data | fields))


PROVIDERS: tuple[Provider, ...] = tuple(map(_provider, _DATA["providers"]))
_IN_CONVENTIONS = {
    "azure": "azure.ai.openai",
    "azure_ai": "azure.ai.inference",
    "bedrock": "aws.bedrock",
    "cohere_chat": "cohere",
    "gemini": "gcp.gemini",
    "mistral": "mistral_ai",
    "vertex_ai": "gcp.vertex_ai",
    "watsonx": "ibm.watsonx.ai",
    "xai": "x_ai",
}
"""Providers that the GenAI conventions name otherwise than LiteLLM does."""


def current(name: str) -> str:
    """The model that a name stands for: itself, or the successor of a legacy one, with a warning once.

    A name with its provider (`openai/gpt-4-turbo`) is meant as it stands.
    """
    successor = ALIASES.get(name)
    if successor is None:
        return name
    # Warns from this line for every caller: Python shows a text once for each line that warns.
    warnings.warn(
        f"model {name!r} is answered by {successor}: name that instead", LegacyModelName, stacklevel=1
    )
    return successor


def find_provider(model: str) -> tuple[Provider, str]:
    """The provider of a model, and its whole name (`gpt-5.4` is `openai/gpt-5.4`).

    Legacy names lead to their successors. Raises ConfigError for an unknown provider, with near ones.
    """
    name = current(model)
    prefix, slash, _ = name.partition("/")
    if not slash:
        provider = next((provider for provider in PROVIDERS if name.startswith(provider.families)), None)
        if provider is None:
            examples = [provider.example.partition("/")[2] for provider in PROVIDERS]
            raise _unknown(f"model {model!r} does not say who offers it", name, [*examples, *ALIASES])
        return provider, f"{provider.name}/{name}"
    provider = _known(prefix)
    if provider is None and prefix in _litellms_providers():
        key, base = (Provider(prefix, prefix, "").variable(name) for name in ("API_KEY", "API_BASE"))
        params = (_Param("api_key", (key,), optional=True), _Param("api_base", (base,), optional=True))
        provider = Provider(prefix, prefix, f"{prefix}/MODEL", params)
    if provider is None:
        names = [provider.name for provider in PROVIDERS] + sorted(_litellms_providers())
        raise _unknown(f"model {model!r}: there is no provider {prefix!r}", prefix, names)
    return provider, name


def _known(name: str) -> Provider | None:
    return next((provider for provider in PROVIDERS if provider.name == _SAME.get(name, name)), None)


def _provider_name(model: str) -> str:
    """The provider of a deployment's model, as LiteLLM names it; "" where its name does not say it."""
    prefix, slash, _ = model.partition("/")
    if slash:
        return prefix
    return next((provider.name for provider in PROVIDERS if model.startswith(provider.families)), "")


@lru_cache(maxsize=256)
def convention_name(model: str) -> str:
    """The provider of a deployment's model, as the GenAI conventions name it; "" if unknown."""
    return _IN_CONVENTIONS.get(name := _provider_name(model), name)


def provider_params(model: str) -> tuple[_Param, ...]:
    """The parameters of a model's provider for credentials and address; none where it is not known."""
    provider = _known(_provider_name(model))
    return () if provider is None else provider.params


def bare_name(model: str) -> str:
    """A model's name as its provider knows it."""
    return model.partition("/")[2] or model


def missing(
    provider: Provider, model: str, environment: Mapping[str, str], own_params: Collection[str] = ()
) -> ConfigError | None:
    """The error of a missing credential or package of a provider's model; None if all is there.

    `given` are the parameters that need no variable.
    """
    lacking = [p for p in provider.params if p.name not in own_params and p.misses(environment)]
    if lacking:
        names = ", ".join(" or ".join(param.variables) for param in lacking)
        console = f"; credentials are had at {provider.console}" if provider.console else ""
        verb = "is" if len(lacking) == 1 else "are"
        problem = f"model {model!r} is offered by {provider.title}, and {names} {verb} not set"
        remedy = f"Set {'it' if len(lacking) == 1 else 'them'} in the environment{console}"
        return ConfigError(problem, remedy=remedy, field="model")
    if provider.package and not _is_importable(provider.package):
        problem = f"model {model!r} is offered by {provider.title}, which LiteLLM calls by {provider.package}"
        remedy = f"Install it: pip install {provider.package.replace('.', '-')}"
        return ConfigError(problem, remedy=remedy, field="model")
    return None


def _is_importable(package: str) -> bool:
    """Whether a package is there; asks without importing it."""
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:  # of a parent
        return False


def _litellms_providers() -> frozenset[str]:
    """The providers of chat models of the installed LiteLLM, read without importing it; none without it."""
    spec = importlib.util.find_spec("litellm")
    path = Path(spec.origin).with_name(_LITELLM_LIST) if spec and spec.origin else None
    if path is None or not path.is_file():
        return frozenset()
    listed = json.loads(path.read_text("utf-8"))["providers"]
    return frozenset(
        name for name, provider in listed.items() if provider["endpoints"].get("chat_completions")
    )


def _unknown(message: str, name: str, names: list[str]) -> ConfigError:
    near = get_close_matches(name, list(dict.fromkeys(names)), n=3, cutoff=0.5)
    titles = ", ".join(provider.name for provider in PROVIDERS)
    hint = (
        f"Did you mean {' or '.join(near)}?" if near else f"Providers are {titles}, and others of LiteLLM's."
    )
    return ConfigError(message, remedy=f"{hint} Write provider/model, like openai/gpt-5.4", field="model")


# Who calls a deployment

_Params = Mapping[str, Any]
_Maker = Callable[[_Params, Discretion], Model]
"""Makes the model of a deployment of its `litellm_params`, resolved."""

_ADDRESSES = {
    "openai": "https://api.openai.com/v1",
    "openrouter": "https://openrouter.ai/api/v1",
    "deepseek": "https://api.deepseek.com/v1",
    "xai": "https://api.x.ai/v1",
    "together_ai": "https://api.together.xyz/v1",
    "groq": "https://api.groq.com/openai/v1",
    "hosted_vllm": "",
    "litellm_proxy": "",
    "custom_openai": "",
    "ollama": "",
    "ollama_chat": "",
}
"""Providers with OpenAI's chat completions, and where they are unless the file says it."""
_REASONING = re.compile(r"o\d|gpt-5(?!-chat)")
_ROUTING = frozenset(
    {"tags", "weight", "order", "rpm", "tpm", "timeout", "request_timeout", "stream_timeout", "max_retries"}
    | {"num_retries", "cooldown_time", "max_parallel_requests", "drop_params", "additional_drop_params"}
    | {"base_model"}
)
"""Parameters of a deployment that the mesh reads and no provider is sent."""
_CALLING = frozenset({"model", "api_key", "api_base", "base_url", "extra_headers", "headers", "organization"})
_OURS = frozenset({"temperature", "max_tokens", "user"})  # every request has its own
_COMPLETIONS = frozenset(
    {"top_p", "stop", "seed", "presence_penalty", "frequency_penalty", "logit_bias", "reasoning_effort"}
    | {"verbosity", "service_tier", "parallel_tool_calls", "store", "prompt_cache_key", "safety_identifier"}
    | {"extra_body"}
)
_MESSAGES = frozenset(
    {"top_p", "top_k", "thinking", "stop_sequences", "cache_control_injection_points", "extra_body"}
)


def make_adapter(params: _Params, discretion: Discretion, *, drop_params: bool = False) -> Model:
    """Make the model of a deployment. `discretion` knows the secrets that no error may show.

    Raises ConfigError for an address or a key that cannot be used.
    """
    maker = _find_maker(params)
    if maker is not None:
        return maker(params, discretion)
    own_params = {name: value for name, value in params.items() if name not in _ROUTING | _OURS}
    return LiteLLMModel(own_params, discretion=discretion, drop_params=drop_params)


def needs_litellm(params: _Params) -> bool:
    """Whether no adapter of our own can call a deployment."""
    return _find_maker(params) is None


def _find_maker(params: _Params) -> _Maker | None:
    """The maker of the deployment's provider; None where that has none, or only LiteLLM reads a parameter.

    Unknown names are passed on. This is the registry: a new provider is a line here.
    """
    provider = _provider_name(params["model"])
    if provider not in ("anthropic", *_ADDRESSES) or not _api_address(params):  # LiteLLM may know an address
        return None
    ours = _ROUTING | _CALLING | _OURS | (_MESSAGES if provider == "anthropic" else _COMPLETIONS)
    litellms = known_names()["litellm_params"]
    if all(name in ours or _is_price(name) or name not in litellms for name in params):
        return _anthropic if provider == "anthropic" else _openai
    return None


def writes_cache(params: _Params) -> bool:
    """Whether calls of a deployment ask its provider to cache prompts, at a price for what is written."""
    points = params.get("cache_control_injection_points")
    return bool(points) if points is not None else "claude" in params["model"]


def _is_price(name: str) -> bool:
    return "cost" in name.split("_")


def _passed_on(params: _Params) -> dict[str, Any]:
    apart = _ROUTING | _CALLING | _OURS | {"extra_body", "cache_control_injection_points"}
    others = {name: value for name, value in params.items() if name not in apart and not _is_price(name)}
    return {**others, **(params.get("extra_body") or {})}


def _api_address(params: _Params) -> str:
    usual = _ADDRESSES.get(_provider_name(params["model"]), ANTHROPIC_URL)
    return str(params.get("api_base") or params.get("base_url") or usual).rstrip("/")


def _openai(params: _Params, discretion: Discretion) -> Model:
    provider, model = _provider_name(params["model"]), bare_name(params["model"])
    url = _api_address(params).removesuffix("/chat/completions")  # some files name the whole endpoint
    if provider.startswith("ollama") and not url.endswith("/v1"):  # its own API is at the root, OpenAI's here
        url += "/v1"
    reasons = provider == "openai" and _REASONING.match(model) is not None
    wire = ChatCompletions(extra=_passed_on(params), reasons=reasons)
    return _at(f"{url}/chat/completions", wire, params, discretion)


def _anthropic(params: _Params, discretion: Discretion) -> Model:
    url = _api_address(params).removesuffix("/v1/messages").removesuffix("/v1") + "/v1/messages"
    points = params.get("cache_control_injection_points")
    return _at(url, AnthropicMessages(extra=_passed_on(params), cached=points), params, discretion)


def _at(url: str, wire: Wire, params: _Params, discretion: Discretion) -> Model:
    headers = {**(params.get("headers") or {}), **(params.get("extra_headers") or {})}
    if params.get("organization"):
        headers["OpenAI-Organization"] = params["organization"]
    texts = {str(name): str(value) for name, value in headers.items()}
    return ApiModel(url, wire, api_key=params.get("api_key"), headers=texts, discretion=discretion)
