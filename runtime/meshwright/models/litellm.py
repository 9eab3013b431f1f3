"""Every provider that has no adapter of its own, by LiteLLM's public `acompletion`."""

from __future__ import annotations

import asyncio
import copy
import logging
import os
import re
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any

from pydantic_core import from_json

from meshwright.core.errors import ConfigError, ModelError
from meshwright.core.plugins import install_command
from meshwright.models.errors import (
    ContentRefused,
    ContextTooLong,
    ModelRefused,
    ModelTimeout,
    ModelUnavailable,
    Unauthorized,
)
from meshwright.models.faults import (
    Discretion,
    ProviderFault,
    connection_reason,
    error_for,
    provider_words,
    read_retry_after,
)
from meshwright.models.http import MAX_REPLY_BYTES, TooMuch, reading
from meshwright.models.openai import ChatCompletions, ChunkPieces, read_embeddings
from meshwright.models.port import ModelReply, ModelRequest, OnDelta

RELEASE = "1.88.6"
"""The tested release, which the extra `litellm` installs. Others fail late: 1.106.12 in every call."""
_logger = logging.getLogger("meshwright.models")
_SOURCE = "LiteLLM"
_LOGGERS = ("LiteLLM", "LiteLLM Router", "LiteLLM Proxy", "litellm")
_CLIENT_LOGGERS = ("openai._base_client", "openai._legacy_response", "openai._response")
_CLIENTS = frozenset({"litellm", "openai", "httpx"})
_ADDED = re.compile(r"\s*(?:Traceback|LiteLLM Retried)")
_OWN_FAILURES = (ImportError, TypeError, AttributeError, NameError, LookupError, AssertionError)
_MAX_CAUSES = 8
_ARGUMENTS = frozenset(
    {"top_p", "top_k", "stop", "seed", "presence_penalty", "frequency_penalty", "logit_bias", "store"}
    | {"reasoning_effort", "verbosity", "thinking", "service_tier", "parallel_tool_calls", "prediction"}
    | {"safety_identifier", "prompt_cache_key", "prompt_cache_retention", "web_search_options"}
    | {"dimensions", "encoding_format"}
)
"""The callers' parameters that LiteLLM translates; it puts any other into the provider's body as it is."""


def installed_release() -> str | None:
    """The release of LiteLLM that is installed, or None; asks without importing it."""
    try:
        return version("litellm") if find_spec("litellm") else None
    except (PackageNotFoundError, ValueError):
        return None


def require_tested_release() -> None:
    """Raises ConfigError where the installed release of LiteLLM is not the tested one."""
    release = installed_release()
    if release not in (None, RELEASE):
        problem = f"LiteLLM {release} is installed, and Meshwright works with {RELEASE} only"
        raise ConfigError(problem, remedy=f"Run: pip install litellm=={RELEASE}", field="model")


class LiteLLMModel:
    """Calls one deployment. LiteLLM is imported at the first call, in a thread: it takes about two seconds.

    One attempt a call, within the request's own deadline, to which the import does not count. LiteLLM shares
    its connections within the process, and closes them at its end.
    """

    def __init__(self, params: Mapping[str, Any], *, discretion: Discretion, drop_params: bool) -> None:
        self.name = f"litellm {params['model']}"
        self._params = {**params, "num_retries": 0, "max_retries": 0, "drop_params": drop_params}
        prefix, slash, _ = params["model"].partition("/")
        self._prefix = f"{prefix}/" if slash else ""
        self._discretion = discretion
        self._wire = ChatCompletions()
        self._missing: list[str] | None = None

    async def complete(self, request: ModelRequest, on_delta: OnDelta | None = None) -> ModelReply:
        """Make one attempt. Raises ModelError."""
        litellm = await asyncio.to_thread(_load) if self._missing is None else _load()
        started = time.perf_counter()
        try:
            async with asyncio.timeout(request.timeout_seconds):
                reply = await self._called(litellm, request, on_delta)
        except TimeoutError:
            what = f"No reply from model {request.model!r} in {request.timeout_seconds:g} seconds"
            raise ModelTimeout(what) from None
        except ModelError:
            raise
        except Exception as error:  # noqa: BLE001 - LiteLLM raises whatever its providers' clients raise
            raise _translated(error, request, self._discretion) from None
        return reply.model_copy(update={"latency_ms": (time.perf_counter() - started) * 1000})

    async def close(self) -> None:
        """Nothing: LiteLLM shares its connections."""

    async def _called(self, litellm: Any, request: ModelRequest, on_delta: OnDelta | None) -> ModelReply:
        if self._missing is None:
            own_params = {name: self._params.get(name) for name in ("api_key", "api_base")}
            validation = litellm.validate_environment(self._params["model"], **own_params)
            self._missing = [] if own_params["api_key"] else list(validation["missing_keys"])
        if self._missing:  # LiteLLM would tell of a server's fault
            raise Unauthorized(
                f"The key of model {request.model!r} is missing", remedy=f"Set {' and '.join(self._missing)}"
            )
        arguments = self._arguments(request, stream=on_delta is not None)
        if request.inputs:
            response = await litellm.aembedding(**arguments)
            return read_embeddings(response.model_dump(), request, source=_SOURCE)
        response = await litellm.acompletion(**arguments)
        if on_delta is None:
            return self._wire.read(_reply_body(response), request, _SOURCE, {})
        pieces = ChunkPieces(on_delta, MAX_REPLY_BYTES)
        counted = False
        try:
            async for chunk in response:
                pieces.add(chunk.model_dump())
                counted = counted or bool(getattr(chunk, "usage", None))
        except TooMuch:
            raise ModelError(f"{_SOURCE} sent a reply of more than {MAX_REPLY_BYTES:,} characters") from None
        finally:
            await response.aclose()
        if response.received_finish_reason is None:  # LiteLLM would pass off what was cut off as an answer
            raise ModelUnavailable(f"The provider of model {request.model!r} broke off its reply")
        reply = self._wire.read(pieces.body(), request, _SOURCE, {})
        return reply if counted else reply.model_copy(update={"cost_source": "estimated"})

    def _arguments(self, request: ModelRequest, *, stream: bool) -> dict[str, Any]:
        body = copy.deepcopy(self._wire.body(request, stream=stream))  # LiteLLM writes into schemas
        replies = [entry for entry in body.get("messages", ()) if entry["role"] == "assistant"]
        answers = [message for message in request.messages if message.role == "assistant"]
        for entry, message in zip(replies, answers, strict=True):
            if message.thinking:
                entry["thinking_blocks"] = [dict(block) for block in message.thinking]
        if "claude" in request.model and "cache_control_injection_points" not in self._params:
            _mark_conversation(body.get("messages", ()))
        others = {name: body.pop(name) for name in request.params if name in body and name not in _ARGUMENTS}
        if others:
            fixed: Any = self._params.get("extra_body") or {}
            body["extra_body"] = {**fixed, **others}
        return {
            **self._params,
            **body,
            "model": f"{self._prefix}{request.model}",
            "timeout": request.timeout_seconds,
        }


def _mark_conversation(messages: Sequence[dict[str, Any]]) -> None:
    """Have Claude, at any provider, cache a conversation that goes on, as through its own API."""
    questions = [message for message in messages if message["role"] in ("user", "tool")]
    goes_on = any(message["role"] == "assistant" for message in messages)
    system = [message for message in messages if message["role"] == "system"]
    for message in (*system[-1:], *questions[-2:]) if goes_on else ():
        control = {"type": "ephemeral"}
        if message["role"] == "tool" or isinstance(message["content"], list):
            message["cache_control"] = control
        elif message["content"].strip():
            text = {"type": "text", "text": message["content"], "cache_control": control}
            message["content"] = [text]


@cache
def _load() -> Any:
    """Import LiteLLM, silent and without its look at the network. Raises ModelError where it cannot be."""
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
    os.environ.setdefault("LITELLM_MODE", "PRODUCTION")  # else it reads any .env file above this folder
    silence_loggers()
    try:
        import litellm
    except ImportError as error:
        remedy = f"Install it again: {install_command('litellm')}"
        raise ModelError(f"LiteLLM cannot be imported: {error}", remedy=remedy) from error
    # It fills its objects with what providers wrote, and pydantic would quote that to stderr.
    warnings.filterwarnings("ignore", "Pydantic serializer warnings")
    litellm.suppress_debug_info = True  # else it prints advice on each error
    # Else it fetches a tokenizer to count a stream's tokens, which can stop the loop for half a minute.
    litellm.disable_hf_tokenizer_download = True
    return litellm


def silence_loggers() -> None:
    """Let no record of LiteLLM's, or of the client that it calls by, reach a handler: they quote requests.

    The error alone says what went wrong.
    """
    for name in (*_LOGGERS, *_CLIENT_LOGGERS):
        logging.getLogger(name).addFilter(lambda record: False)
    logging.getLogger("asyncio").addFilter(_is_ours)  # reports tasks that LiteLLM starts and leaves alone
    package = logging.getLogger("litellm")
    package.propagate = False
    package.addHandler(logging.NullHandler())  # with no handler at all, Python prints to stderr


def _is_ours(record: logging.LogRecord) -> bool:
    error = record.exc_info[1] if record.exc_info else None
    return type(error).__module__.partition(".")[0] not in _CLIENTS


def _reply_body(response: Any) -> dict[str, Any]:
    """The parts of a reply that are used; LiteLLM's objects are slow to write out."""
    with reading(_SOURCE):
        choice, usage = response.choices[0], response.usage
        message = choice.message
        calls = [
            {"id": call.id, "function": {"name": call.function.name, "arguments": call.function.arguments}}
            for call in message.tool_calls or ()
        ]
        refusal = (getattr(message, "provider_specific_fields", None) or {}).get("refusal")
        body = {"content": message.content, "tool_calls": calls, "refusal": refusal}
        body["images"] = [dict(image) for image in getattr(message, "images", None) or ()]
        body |= {name: getattr(message, name, None) for name in ("thinking_blocks", "reasoning_content")}
        audio = getattr(message, "audio", None)
        body["audio"] = audio if audio is None or isinstance(audio, dict) else audio.model_dump()
        return {
            "model": response.model,
            "choices": [{"message": body, "finish_reason": choice.finish_reason}],
            "usage": usage.model_dump() if hasattr(usage, "model_dump") else usage,
        }


def _translated(error: Exception, request: ModelRequest, discretion: Discretion) -> ModelError:
    """Make our error of one of LiteLLM's, and log what it was: its own text quotes the prompt."""
    causes = list(_iter_causes(error))
    body = _provider_body(causes)
    # The fault of a program, of LiteLLM's or ours, that no provider's answer and no connection led to.
    foreign = body is not None or any(_is_of_a_connection(cause) for cause in causes)
    own = (
        None
        if foreign
        else next((cause for cause in reversed(causes) if isinstance(cause, _OWN_FAILURES)), None)
    )
    masked = discretion.shown(_litellm_words(causes) if body is None and own is None else body, request)
    model_error = _kind_of_error(error, causes, request.model, masked)
    level = logging.DEBUG
    if own is not None and isinstance(model_error, ModelUnavailable | ModelRefused):
        level, own_words = logging.WARNING, discretion.shown(str(own), request)
        lacks = isinstance(own, ImportError)
        # Only where LiteLLM failed after an answer may another try end well.
        kind = ModelUnavailable if model_error.retryable and not lacks else ModelError
        what = f"LiteLLM failed by itself, in a call of model {request.model!r}, with {type(own).__name__}"
        remedy = "Install what this provider needs in addition to LiteLLM" if lacks else ""
        model_error = kind(f"{what}: {own_words}" if own_words else what, remedy=remedy)
    described = ", caused by ".join(
        f"{type(cause).__module__}.{type(cause).__qualname__} "
        f"({discretion.shown(_ADDED.split(str(cause))[0], request)})"
        for cause in causes
    )
    _logger.log(level, "LiteLLM failed for model %r: %s", request.model, described)
    return model_error


def _kind_of_error(error: Exception, causes: Sequence[BaseException], model: str, masked: str) -> ModelError:
    kinds = {kind.__name__ for cause in causes[:2] for kind in type(cause).__mro__}
    quote = f"; it said: {masked}" if masked else ""
    if "ContextWindowExceededError" in kinds:
        return ContextTooLong(f"The messages do not fit model {model!r}{quote}", remedy="Shorten the context")
    if "ContentPolicyViolationError" in kinds:
        return ContentRefused(f"The provider's policy forbids the request to model {model!r}{quote}")
    if "UnsupportedParamsError" in kinds:  # LiteLLM's own, from its data on the model: no request was made
        words = provider_words(str(getattr(error, "message", error)))
        return error_for(ProviderFault(400, words, quotation=masked), source=_SOURCE, model=model)
    if "Timeout" in kinds:
        return ModelTimeout(f"No reply from model {model!r} in time")
    if unreachable := next((cause for cause in causes if _is_of_a_connection(cause)), None):
        problem = f"No connection to the provider of model {model!r}: {connection_reason(unreachable)}"
        return ModelUnavailable(problem, remedy="Check the address (api_base) of its deployments")
    statuses = [getattr(cause, "status_code", None) for cause in causes]
    failures = [status for status in statuses if isinstance(status, int) and status >= 400]
    if not failures:
        return ModelRefused(f"{_SOURCE} raised {type(error).__name__} for a call of model {model!r}")
    headers = getattr(error, "litellm_response_headers", None) or {}
    # The last is the provider's own: LiteLLM makes a 500 of what it does not know.
    fault = ProviderFault(
        failures[-1], provider_words(_provider_body(causes) or ""), read_retry_after(headers), masked
    )
    return error_for(fault, source=_SOURCE, model=model)


def _iter_causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what led to it, down to the socket's; in a stream, the error that ended it."""
    for _ in range(_MAX_CAUSES):
        if error is None:
            return
        yield error
        error = getattr(error, "original_exception", None) or error.__cause__ or error.__context__


def _is_of_a_connection(error: BaseException) -> bool:
    return isinstance(error, OSError) and error.errno is not None and not isinstance(error, TimeoutError)


def _provider_body(causes: Sequence[BaseException]) -> Mapping[str, Any] | None:
    """The provider's words, of the first error that still has its reply."""
    for cause in causes:
        body: Any = getattr(cause, "body", None)
        if isinstance(body, Mapping):
            return {"error": body.get("error", body)}
        try:
            text = from_json(str(getattr(cause, "message", "")))
        except ValueError:
            continue
        if isinstance(text, Mapping):
            return text
    return None


def _litellm_words(causes: Sequence[BaseException]) -> str:
    """LiteLLM's own words of an error, without its traceback."""
    messages = [str(getattr(cause, "message", cause)) for cause in causes if hasattr(cause, "status_code")]
    return _ADDED.split((messages or [str(causes[0])])[-1])[0]
