"""The model of one server with OpenAI's API: a LiteLLM proxy first of all, but also Ollama, vLLM, OpenAI."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic_core import from_json, to_json

from meshwright.core.http_calls import read_bounded
from meshwright.core.money import Price
from meshwright.engine.sql.folder import make_private, read_private, write_private
from meshwright.models.config import read_config
from meshwright.models.errors import ModelUnavailable, Unauthorized
from meshwright.models.faults import Discretion
from meshwright.models.http import MAX_REPLY_BYTES, ApiModel, completions_url, gateway_headers
from meshwright.models.openai import ChatCompletions, ProxyCompletions
from meshwright.models.port import Adapter, Model, ModelRequest
from meshwright.models.prices import Prices

_LISTING_SECONDS = 10.0  # of all requests of a listing together


class AgentKeys:
    """The keys that a proxy has for single agents, in a file that only this user may read.

    `mesh keys create --proxy` writes it; a running mesh reads it again when it changes.
    """

    def __init__(self, data_dir: Path) -> None:
        self._path = data_dir / "proxy-keys.json"
        self._read_at: int | None = None
        self._keys: dict[str, dict[str, str]] = {}

    def find_key(self, tenant_id: str, agent_id: str) -> str | None:
        """The key of an agent of a tenant; None where it has none."""
        try:
            changed_at = self._path.stat().st_mtime_ns
        except OSError:  # no key was ever made
            return None
        if changed_at != self._read_at:
            self._read_at, self._keys = changed_at, self._read()
        return self._keys.get(f"{tenant_id}/{agent_id}", {}).get("key")

    def put(self, tenant_id: str, agent_id: str, *, key: str, token: str) -> None:
        """Keep a key, in place of an earlier one of the agent. `token` is how the proxy names it."""
        self._write({**self._read(), f"{tenant_id}/{agent_id}": {"key": key, "token": token}})

    def forget(self, token: str) -> None:
        """Use a key no longer."""
        self._write({name: entry for name, entry in self._read().items() if entry.get("token") != token})

    def _read(self) -> dict[str, dict[str, str]]:
        try:
            return dict(from_json(read_private(self._path)))
        except (OSError, ValueError):
            return {}

    def _write(self, keys: dict[str, dict[str, str]]) -> None:
        make_private(self._path.parent)
        write_private(self._path, to_json(keys, indent=2).decode())


class HttpModel(ApiModel, Adapter):
    """The server at a base URL: a LiteLLM proxy, which knows our groups, or any with one `model_name`."""

    kind = "http"

    def __init__(
        self,
        base_url: str,
        api_key: str | None = None,
        *,
        model_name: str | None = None,
        max_reply_bytes: int = MAX_REPLY_BYTES,
        why: str = "",
        prices_file: Path | None = None,
        owns_file: bool = True,
        agent_keys: AgentKeys | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        own_headers = gateway_headers(headers or {})
        super().__init__(
            completions_url(base_url),
            ChatCompletions(model=model_name) if model_name else ProxyCompletions(),
            api_key=api_key,
            headers=own_headers,
            discretion=Discretion([api_key or "", *own_headers.values()]),
            max_reply_bytes=max_reply_bytes,
            remedy="Start the server, or correct LITELLM_BASE_URL",
        )
        self.model_name = model_name
        self._prices_file = prices_file
        self._owns_file = owns_file
        self._agent_keys = agent_keys
        if why:
            self.name = f"{self.name} ({why})"

    def _request_headers(self, request: ModelRequest) -> Mapping[str, str] | None:
        keys = self._agent_keys
        key = None if keys is None else keys.find_key(request.context.tenant_id, request.user)
        return None if key is None else self.wire.headers(key)

    def groups(self) -> None:
        """Only the server knows them."""

    def prices(self, default: Price | None) -> Prices:
        """By its one model, or by the project's file, which a proxy may share. Raises ConfigError.

        Without one by the file that comes with Meshwright, unless there is a `default`.
        """
        if self.model_name is not None:
            return Prices(default=default, model=self.model_name, is_guess=True)
        file = self._prices_file
        if file is None or not file.is_file() or not (self._owns_file or default is None):
            return Prices(default=default, is_guess=True)
        return Prices(read_config(file), default, is_guess=not self._owns_file)

    def alone(self, group: str | None, names: Collection[str]) -> dict[str, Model]:
        """Itself, for each of its groups."""
        groups = [group] if group else sorted(names) or ["default"]
        return dict.fromkeys(groups if self.model_name is None else [self.model_name], self)

    async def listed(self) -> list[dict[str, Any]]:
        """The deployments that the server has, in the shape of litellm_config.yaml, by `GET /v1/models`.

        Of a LiteLLM proxy, if the key may ask, `/model/info` says what each group is made of.
        Raises ModelUnavailable, and Unauthorized.
        """
        session = self._session or await self._opened()
        import aiohttp  # there by now

        try:
            async with asyncio.timeout(_LISTING_SECONDS):
                listing = self.url.removesuffix("/chat/completions") + "/models"
                names = [str(entry["id"]) for entry in await self._entries(session, listing)]
                try:
                    entries = await self._entries(session, f"{self.server}/model/info")
                except (ModelUnavailable, Unauthorized):  # no LiteLLM proxy, or the key may not ask
                    entries = list[dict[str, Any]]()
        except (aiohttp.ClientError, TimeoutError) as error:
            problem = f"Cannot ask {self.server} for its models ({type(error).__name__})"
            raise ModelUnavailable(problem, remedy="Start the server, or correct LITELLM_BASE_URL") from None
        deployments = [_read_deployment(entry) for entry in entries if entry.get("model_name") in names]
        described = {entry["model_name"] for entry in deployments}
        others = [{"model_name": name, "model_info": {"id": name}} for name in names if name not in described]
        return [*deployments, *map(_read_deployment, others)]

    async def _entries(self, session: Any, url: str) -> list[dict[str, Any]]:
        async with session.get(url, allow_redirects=False) as response:
            if response.status in (401, 403):
                raise Unauthorized(f"{self.server} refused the credentials", remedy="Check LITELLM_API_KEY")
            data = (await read_bounded(response, MAX_REPLY_BYTES))[0]
            status = response.status
        body: Any = None
        with suppress(ValueError):
            body = from_json(data)
        if status == 200 and isinstance(body, dict) and isinstance(body.get("data"), list):
            return [entry for entry in body["data"] if isinstance(entry, dict)]
        words = f": {self._discretion.shown(body)}" if isinstance(body, dict) and status != 200 else ""
        raise ModelUnavailable(
            f"{self.server} does not list its models at {url.removeprefix(self.server)} "
            f"(it answered {status}{words})",
            remedy="Check LITELLM_API_KEY, and that LITELLM_BASE_URL is that of an OpenAI-compatible server",
        )


def _read_deployment(entry: dict[str, Any]) -> dict[str, Any]:
    """A deployment as the proxy tells it; nothing of it that could be a credential."""
    params, info = entry.get("litellm_params") or {}, entry.get("model_info") or {}
    fields = {**info, **params}
    names = ("tags", "weight", "order", "input_cost_per_token", "output_cost_per_token")
    visible_fields = {name: fields[name] for name in names if fields.get(name) is not None}
    model = str(params.get("model") or entry["model_name"])
    return {
        "model_name": entry["model_name"],
        "litellm_params": {"model": model, **visible_fields},
        "model_info": {"id": info.get("id")},
    }
