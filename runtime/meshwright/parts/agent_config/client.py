"""Which model an agent calls, for a backend that calls it itself: cached, and changed by a push."""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

from meshwright import MeshError
from meshwright.core.errors import sentence
from meshwright.edges.client.client import Client
from meshwright.edges.client.transports import DEFAULT_URL, FIRST_PAUSE_SECONDS, MAX_PAUSE_SECONDS
from meshwright.kit import Backoff, ConfigError, NotFound
from meshwright.parts.agent_config.records import AgentLLM

TTL_SECONDS = 300.0
_DEFAULT = "default"
_VARIABLES = ("provider", "endpoint", "model", "api_key", "timeout", "temperature", "max_tokens")
_BUILT_IN = {
    "llm_provider": "ollama",
    "llm_endpoint": "http://localhost:11434",
    "llm_model": "mistral:7b-instruct",
}
_SUBSCRIBE = '{"type": "subscribe", "channel": "agent_config"}'
_HEARTBEAT_SECONDS = 20.0
_FETCH_SECONDS = 5.0  # a caller waits no longer for what it can do without
_logger = logging.getLogger("meshwright.client")


class AgentConfigClient:
    """The models of a tenant's agents.

        async with AgentConfigClient("https://mesh.example.com", key) as models:
            llm = await models.llm("support-agent")    # llm.llm_provider, llm.llm_model, llm.llm_api_key, ...

    `llm` gives the agent's active configuration, else that of the tenant's default agent, else what the
    variables LLM_PROVIDER, LLM_MODEL, LLM_ENDPOINT, LLM_API_KEY, LLM_TIMEOUT, LLM_TEMPERATURE and
    LLM_MAX_TOKENS say (with the `prefix` "AUTOBOT_", AUTOBOT_LLM_PROVIDER and so on), else Ollama on this
    machine; `source` says which. All are fetched at the start, again
    when the mesh pushes a change, and after `ttl_seconds`. While the mesh is away, what was fetched last
    counts.

    `api_key` must be an administrator's, or the admin token. Keys go over TLS, or stay on one machine: the
    mesh sends them no other way. The start raises nothing where no mesh answers.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        api_key: str | None = None,
        *,
        ttl_seconds: float = TTL_SECONDS,
        environment: Mapping[str, str] | None = None,
        prefix: str = "",
    ) -> None:
        self._client = Client(url, api_key)
        self._url = f"{url.rstrip('/')}/ws"
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._ttl_seconds = ttl_seconds
        self._environment = os.environ if environment is None else environment
        self._prefix = prefix
        self._known: dict[str, AgentLLM] = {}
        self._is_stale = True
        self._due_at = 0.0
        self._fetching = asyncio.Lock()
        self._listening: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        await self._refresh()
        self._listening = asyncio.create_task(self._listen())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._listening is not None:
            self._listening.cancel()
            await asyncio.gather(self._listening, return_exceptions=True)
        await self._client.close()

    async def llm(self, agent_id: str) -> AgentLLM:
        """The model of an agent's next call. Raises ConfigError for a variable that is wrong or missing."""
        if self._is_stale or asyncio.get_running_loop().time() >= self._due_at:
            await self._refresh()
        own = self._known.get(agent_id) or self._known.get(_DEFAULT)
        return self._from_environment(agent_id) if own is None else own

    def _from_environment(self, agent_id: str) -> AgentLLM:
        from pydantic import ValidationError

        values = {name: self._environment.get(f"{self._prefix}LLM_{name.upper()}") for name in _VARIABLES}
        fields: dict[str, Any] = {f"llm_{name}": value for name, value in values.items() if value}
        if missing := [name for name in ("llm_provider", "llm_model") if fields and name not in fields]:
            variables = ", ".join(f"{self._prefix}{name.upper()}" for name in fields)
            raise ConfigError(
                f"The environment has {variables}, and no {self._prefix}{missing[0].upper()}",
                remedy=f"Set {self._prefix}LLM_PROVIDER and {self._prefix}LLM_MODEL, or neither",
            )
        source = "environment" if fields else "built-in"
        fields = fields or dict(_BUILT_IN)
        try:
            return AgentLLM.model_validate({**fields, "agent_id": agent_id, "source": source})
        except ValidationError as error:
            [problem, *_] = error.errors(include_input=False)
            variable = f"{self._prefix}{str(problem['loc'][0]).upper()}"
            raise ConfigError(f"{variable}: {sentence(problem)}", remedy="Change or unset it") from None

    async def _refresh(self) -> None:
        """Fetch all; what was known stays where the mesh does not answer."""
        async with self._fetching:
            self._is_stale = False
            try:
                async with asyncio.timeout(_FETCH_SECONDS):
                    self._known = await self._fetch()
                wait = self._ttl_seconds
            except (MeshError, TimeoutError) as error:
                _logger.warning("agent configurations cannot be fetched: %s", error or "no answer in time")
                wait = min(MAX_PAUSE_SECONDS, self._ttl_seconds)
            self._due_at = asyncio.get_running_loop().time() + wait

    async def _fetch(self) -> dict[str, AgentLLM]:
        from meshwright.models.errors import Unauthorized

        by_agent: dict[str, AgentLLM] = {}
        for item in await self._client.items("/api/agents"):
            if not item["is_active"]:
                continue
            path = f"/api/agents/{quote(item['agent_id'], safe='')}/llm"
            try:
                llm = AgentLLM.model_validate(await self._client.call("GET", path))
            except NotFound:  # deleted meanwhile
                continue
            except Unauthorized as error:  # the mesh cannot decrypt its key; those of others count
                _logger.warning("the configuration of %s is left out: %s", item["agent_id"], error)
                continue
            by_agent[llm.agent_id] = llm
            if item["is_default"]:
                by_agent[_DEFAULT] = llm.model_copy(update={"source": "default"})
        return by_agent

    async def _listen(self) -> None:
        """Fetch again after each push of a change, and after each new connection."""
        import aiohttp

        pauses = Backoff(FIRST_PAUSE_SECONDS, MAX_PAUSE_SECONDS, jitter=0.5)
        async with aiohttp.ClientSession(headers=self._headers) as session:
            while True:
                with suppress(aiohttp.ClientError, OSError, TimeoutError):
                    async with session.ws_connect(self._url, heartbeat=_HEARTBEAT_SECONDS) as socket:
                        await socket.send_str(_SUBSCRIBE)
                        async for message in socket:
                            if message.type is not aiohttp.WSMsgType.TEXT:
                                break
                            if json.loads(message.data).get("type") == "error":
                                break
                            pauses.reset()
                            self._is_stale = True  # also of "subscribed": changes before it were not pushed
                            await self._refresh()
                await asyncio.sleep(pauses.next())
