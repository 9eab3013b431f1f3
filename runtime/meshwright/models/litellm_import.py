"""LiteLLM, imported late and kept silent; and what it keeps for an event loop, closed."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

LOGGERS = (
    *("LiteLLM", "LiteLLM Router", "LiteLLM Proxy", "litellm"),
    *("openai._base_client", "openai._legacy_response", "openai._response"),  # by which it calls
)
CLIENTS = frozenset({"litellm", "openai", "httpx"})
COMPLETION = (
    b'{"id": "warm-up", "object": "chat.completion", "created": 0, "model": "none", "usage": null, '
    b'"choices": [{"index": 0, "message": {"role": "assistant", "content": "."}, "finish_reason": "stop"}]}'
)
LOADING = threading.Lock()


def import_litellm() -> Any:
    """Import LiteLLM, which takes about two seconds. Raises ImportError."""
    # Without these, the import fetches prices over the network and reads any .env file above this folder.
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
    os.environ.setdefault("LITELLM_MODE", "PRODUCTION")
    silence_loggers()
    with LOADING:
        if "litellm" not in sys.modules:
            with uncollected():
                import litellm

                # Never beside a Router at work: LiteLLM's queue of events is of one loop at a time.
                with suppress(Exception):  # then the first call does what this would have spared it
                    asyncio.run(warm_up())
        import litellm

    # It fills its objects with what providers wrote, and pydantic would quote that to stderr.
    warnings.filterwarnings("ignore", "Pydantic serializer warnings")
    litellm.suppress_debug_info = True  # else it prints advice on each error
    # Else it fetches a tokenizer to count a stream's tokens, which can stop the loop for half a minute.
    litellm.disable_hf_tokenizer_download = True
    return litellm


@contextmanager
def uncollected() -> Iterator[None]:
    """Collect no garbage meanwhile, and later not among what there is then: going over
    LiteLLM's objects stops every thread for 0.2 seconds."""
    on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if on:
            gc.enable()


async def warm_up() -> None:
    """Make one call, of a server of our own: the first one imports and makes what all the others use.

    For a loop in a thread, as it blocks the loop for a third of a second.
    """
    import litellm
    from litellm.litellm_core_utils.logging_worker import GLOBAL_LOGGING_WORKER

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n"
        writer.write(head + b"content-length: %d\r\n\r\n" % len(COMPLETION) + COMPLETION)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        await litellm.acompletion(
            model="openai/gpt-4o-mini",
            messages=[{"role": "user", "content": "."}],
            api_base=f"http://127.0.0.1:{port}/v1",
            api_key="none",
            max_retries=0,
            timeout=5,
        )
        await asyncio.wait_for(GLOBAL_LOGGING_WORKER.flush(), 5)
        await GLOBAL_LOGGING_WORKER.stop()
        await close_clients_of(asyncio.get_running_loop())


def silence_loggers() -> None:
    """Let no record of LiteLLM's, or of the client that it calls by, reach a handler: they quote requests
    with their extra headers, and replies, and hold tracebacks.

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


async def close_clients_of(loop: asyncio.AbstractEventLoop) -> None:
    """Close the HTTP clients that LiteLLM keeps for an event loop; their keys end with its id."""
    import litellm

    vars(litellm).pop("module_level_aclient", None)  # one of them under a second name: it makes itself anew
    clients = litellm.in_memory_llm_clients_cache.cache_dict
    for key in [key for key in clients if str(key).endswith(f"-{id(loop)}")]:
        client = clients.pop(key)
        close = getattr(client, "close", None) or getattr(client, "aclose", None)
        if close is not None:
            await close()
