"""Which adapter calls a deployment: the one of its provider, or LiteLLM for all others."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from meshwright.models.anthropic import URL as ANTHROPIC_URL
from meshwright.models.anthropic import AnthropicMessages
from meshwright.models.config import known_names
from meshwright.models.http import ApiModel
from meshwright.models.litellm import LiteLLMModel
from meshwright.models.openai import ChatCompletions
from meshwright.models.port import Model
from meshwright.models.providers import bare_name, provider_name
from meshwright.models.reasons import Discretion

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
"""What the mesh reads of a deployment and no provider is sent."""
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


def adapter_of(params: _Params, discretion: Discretion, *, drop_params: bool = False) -> Model:
    """Make the model of a deployment. `discretion` knows the secrets that no error may show.

    Raises ConfigError for an address or a key that cannot be used.
    """
    maker = _maker_of(params)
    if maker is not None:
        return maker(params, discretion)
    kept = {name: value for name, value in params.items() if name not in _ROUTING | _OURS}
    return LiteLLMModel(kept, discretion=discretion, drop_params=drop_params)


def needs_litellm(params: _Params) -> bool:
    """Whether no adapter of our own can call a deployment."""
    return _maker_of(params) is None


def _maker_of(params: _Params) -> _Maker | None:
    """The maker of the deployment's provider; None where that has none, or only LiteLLM reads a parameter.

    This is the registry: a new provider is a line here.
    """
    provider = provider_name(params["model"])
    if provider == "anthropic" and _has_only(params, _MESSAGES):
        return _anthropic
    if provider in _ADDRESSES and _has_only(params, _COMPLETIONS):
        address = params.get("api_base") or params.get("base_url") or _ADDRESSES[provider]
        return _openai if address else None
    return None


def _has_only(params: _Params, fields: frozenset[str]) -> bool:
    """Whether a deployment has no parameter that only LiteLLM can read; what nobody knows is passed on."""
    ours = _ROUTING | _CALLING | _OURS | fields
    litellms = known_names()["litellm_params"]
    return all(name in ours or _is_price(name) or name not in litellms for name in params)


def _is_price(name: str) -> bool:
    return "cost" in name.split("_")


def _passed_on(params: _Params, left: frozenset[str] = frozenset()) -> dict[str, Any]:
    """The fields that go into every request as they are."""
    apart = _ROUTING | _CALLING | _OURS | {"extra_body"} | left
    known = {name: value for name, value in params.items() if name not in apart and not _is_price(name)}
    return {**known, **(params.get("extra_body") or {})}


def _headers(params: _Params) -> dict[str, str]:
    headers = {**(params.get("headers") or {}), **(params.get("extra_headers") or {})}
    if params.get("organization"):
        headers["OpenAI-Organization"] = params["organization"]
    return {str(name): str(value) for name, value in headers.items()}


def _openai(params: _Params, discretion: Discretion) -> Model:
    provider, model = provider_name(params["model"]), bare_name(params["model"])
    address = params.get("api_base") or params.get("base_url") or _ADDRESSES[provider]
    url = str(address).rstrip("/").removesuffix("/chat/completions")
    if provider.startswith("ollama") and not url.endswith("/v1"):
        url += "/v1"
    reasons = provider == "openai" and _REASONING.match(model) is not None
    wire = ChatCompletions(extra=_passed_on(params), reasons=reasons)
    key, headers = params.get("api_key"), _headers(params)
    return ApiModel(f"{url}/chat/completions", wire, api_key=key, headers=headers, discretion=discretion)


def _anthropic(params: _Params, discretion: Discretion) -> Model:
    address = str(params.get("api_base") or params.get("base_url") or ANTHROPIC_URL).rstrip("/")
    url = address.removesuffix("/v1/messages").removesuffix("/v1") + "/v1/messages"
    points = params.get("cache_control_injection_points") or ()
    extra = _passed_on(params, frozenset({"cache_control_injection_points"}))
    wire = AnthropicMessages(extra=extra, cached=points)
    key, headers = params.get("api_key"), _headers(params)
    return ApiModel(url, wire, api_key=key, headers=headers, discretion=discretion)
