"""What an OpenAI-compatible server says of its models; a LiteLLM proxy says of each deployment too."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from pydantic_core import from_json

from meshwright.models.http import authorization, completions_url, read_limited
from meshwright.models.port import ModelUnavailable, Unauthorized

MAX_BYTES = 4 * 1024 * 1024
TIMEOUT_SECONDS = 10.0
SHOWN = ("tags", "weight", "order", "input_cost_per_token", "output_cost_per_token")


async def groups_of_server(base_url: str, api_key: str | None) -> list[dict[str, Any]]:
    """The deployments that a server has, in the shape of litellm_config.yaml, by `GET /v1/models`.

    Where the server is a LiteLLM proxy, and the key is allowed to ask it, `/model/info` says what each group
    is made of. Raises ModelUnavailable, and Unauthorized.
    """
    import aiohttp

    listing = completions_url(base_url).removesuffix("/chat/completions") + "/models"
    parts = urlsplit(listing)
    server = f"{parts.scheme}://{parts.netloc}"
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_SECONDS)
    try:
        async with aiohttp.ClientSession(headers=authorization(api_key), timeout=timeout) as session:
            names = [str(each["id"]) for each in await entries(session, listing, server)]
            told = await described_by(session, server)
    except (aiohttp.ClientError, TimeoutError) as error:
        raise ModelUnavailable(
            f"Cannot ask {server} for its models ({type(error).__name__})",
            remedy="Start the server, or correct LITELLM_BASE_URL",
        ) from None
    deployments = [deployment_of(each) for each in told if each.get("model_name") in names]
    described = {each["model_name"] for each in deployments}
    return [*deployments, *(named(name) for name in names if name not in described)]


async def described_by(session: Any, server: str) -> list[dict[str, Any]]:
    """What a proxy says of its deployments; nothing where it is none, or this key may not ask."""
    try:
        return await entries(session, f"{server}/model/info", server)
    except (ModelUnavailable, Unauthorized):
        return []


async def entries(session: Any, url: str, server: str) -> list[dict[str, Any]]:
    """The `data` of a listing."""
    async with session.get(url, allow_redirects=False) as response:
        if response.status in (401, 403):
            raise Unauthorized(f"{server} refused the credentials", remedy="Check LITELLM_API_KEY")
        data = await read_limited(response, MAX_BYTES) if response.status == 200 else None
    try:
        found = from_json(data or b"")["data"]
        return [each for each in found if isinstance(each, dict)]
    except (ValueError, KeyError, TypeError):
        raise ModelUnavailable(
            f"{server} does not list its models at {urlsplit(url).path}",
            remedy="Check that LITELLM_BASE_URL is the base URL of an OpenAI-compatible server",
        ) from None


def deployment_of(told: dict[str, Any]) -> dict[str, Any]:
    """A deployment as the proxy tells it; nothing of it that could be a credential."""
    params, info = told.get("litellm_params") or {}, told.get("model_info") or {}
    known = {**info, **params}
    shown = {name: known[name] for name in SHOWN if known.get(name) is not None}
    model = str(params.get("model") or told["model_name"])
    return {
        "model_name": told["model_name"],
        "litellm_params": {"model": model, **shown},
        "model_info": {"id": info.get("id")},
    }


def named(name: str) -> dict[str, Any]:
    """A model of which no more than its name is known."""
    return {"model_name": name, "litellm_params": {"model": name}, "model_info": {"id": name}}
