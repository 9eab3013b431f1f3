"""A LiteLLM proxy's own books: virtual keys, and what it says was spent, to be laid beside our ledger.

Written to LiteLLM's documented API (1.88). All of it needs a proxy with a database, and the report by agent
one with LiteLLM's licence; neither was there to run this against.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import date
from decimal import Decimal
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

from meshwright.errors import InvalidInput, MeshError, NotFound
from meshwright.money import ZERO, Budget

if TYPE_CHECKING:
    import aiohttp

TIMEOUT_SECONDS = 30.0
MAX_REPLY_BYTES = 8 * 1024 * 1024
DURATIONS = {"hour": "1h", "day": "1d", "month": "1mo", "total": None}
"""How LiteLLM writes the windows of budgets."""
OWN_TAGS = "User-Agent: "
"""What the tags begin with that the proxy adds to every call itself."""
ROUNDING = Decimal("0.000001")
"""Dollars; the proxy adds up floating point, so below that nothing can be told from it."""
FIRST_DAY = date(2023, 1, 1)
"""No proxy has books from before."""


class ProxyFailed(MeshError):
    """The proxy does not answer, refuses, or answers something else."""

    status = 502


class ProxyKey(NamedTuple):
    """A key that the proxy has made: `key` is shown this once, `token` is how the proxy names it."""

    key: str
    token: str


class Difference(NamedTuple):
    """What the ledger and the proxy say of one tag or agent; None where one of them knows nothing of it."""

    name: str
    ours: Decimal | None
    theirs: Decimal | None

    @property
    def amount(self) -> Decimal:
        """How much more the proxy counts than the ledger."""
        return (self.theirs or ZERO) - (self.ours or ZERO)

    @property
    def differs(self) -> bool:
        """Whether that is more than rounding."""
        return abs(self.amount) > ROUNDING


class LiteLLMProxy:
    """The management API of a proxy. No error holds a key. Every method raises ProxyFailed."""

    def __init__(self, base_url: str, master_key: str) -> None:
        parts = urlsplit(base_url)
        self.server = f"{parts.scheme}://{parts.netloc}"
        path = parts.path.rstrip("/").removesuffix("/chat/completions").removesuffix("/v1")
        self._root = f"{self.server}{path}"
        self._headers = {"authorization": f"Bearer {master_key}"}

    async def create_key(
        self, agent_id: str, *, tenant_id: str = "default", budget: Budget | None = None
    ) -> ProxyKey:
        """Make a key for an agent, with a budget that the proxy holds (`POST /key/generate`)."""
        asked: dict[str, Any] = {
            "user_id": agent_id,
            "metadata": {"agent_id": agent_id, "tenant_id": tenant_id},
            "key_type": "llm_api",
        }
        if budget is not None:
            asked["max_budget"] = float(budget.limit_usd)  # which is how LiteLLM keeps it
            asked["budget_duration"] = DURATIONS[budget.window]
        match await self._call("POST", "/key/generate", body=asked):
            case {"key": str(key), **rest}:
                return ProxyKey(key, str(rest.get("token_id") or rest.get("token") or ""))
        raise self._odd("/key/generate")

    async def delete_key(self, key: str) -> None:
        """End a key, given itself or by its token (`POST /key/delete`). Raises NotFound."""
        match await self._call("POST", "/key/delete", body={"keys": [key]}):
            case {"deleted_keys": [_, *_]}:
                return
        raise NotFound(f"{self.server} has no such key", remedy="the proxy's own /key/list shows them")

    async def spend_by_tag(self) -> dict[str, Decimal]:
        """What was spent under each tag, ever: the proxy knows no other range (`GET /spend/tags`)."""
        rows = await self._call("GET", "/spend/tags")
        try:
            spent = {str(row["individual_request_tag"]): _dollars(row["total_spend"]) for row in rows}
        except (TypeError, KeyError, ArithmeticError):
            raise self._odd("/spend/tags") from None
        return {tag: cost for tag, cost in spent.items() if not tag.startswith(OWN_TAGS)}

    async def spend_by_agent(self, since: date, until: date) -> dict[str, Decimal]:
        """What each agent has spent on some days of UTC, both included (`GET /global/spend/report`).

        The proxy calls whoever is the `user` of a call its customer.
        """
        asked = {
            "start_date": since.isoformat(),
            "end_date": until.isoformat(),
            "group_by": "customer",
        }
        days = await self._call("GET", "/global/spend/report", params=asked)
        spent: dict[str, Decimal] = {}
        try:
            for row in [row for day in days for row in day["customers"]]:
                name = str(row["customer"] or "")
                spent[name] = spent.get(name, ZERO) + _dollars(row["total_spend"])
        except (TypeError, KeyError, ArithmeticError):
            raise self._odd("/global/spend/report") from None
        return spent

    async def _call(
        self, method: str, path: str, *, params: Mapping[str, str] | None = None, body: Any = None
    ) -> Any:
        import aiohttp

        timeout = aiohttp.ClientTimeout(total=TIMEOUT_SECONDS, sock_connect=10)
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout) as session,
                session.request(
                    method,
                    self._root + path,
                    params=params,
                    json=body,
                    headers=self._headers,
                    allow_redirects=False,
                ) as response,
            ):
                status, text = response.status, await _text(response)
        except (aiohttp.ClientError, TimeoutError) as error:
            raise ProxyFailed(
                f"{self.server} does not answer {path} ({type(error).__name__})",
                remedy="start the proxy, or correct LITELLM_BASE_URL",
            ) from None
        if status != 200:
            raise self._refusal(path, status, text)
        try:
            return json.loads(text, parse_float=Decimal)
        except ValueError:
            raise self._odd(path) from None

    def _refusal(self, path: str, status: int, text: str) -> ProxyFailed:
        """Say what a status means; of the text only what it shows is told, since it may quote a key."""
        lower = text.lower()
        remedy = "the proxy's own log says why"
        if "not connected" in lower or "no_db_connection" in lower or "no db" in lower:
            remedy = "give the proxy a database: it keeps keys and spend in one"
        elif "enterprise" in lower or "premium" in lower:
            remedy = "this report needs LiteLLM's licence; costs by tag do not"
        elif status in (401, 403):
            remedy = "set LITELLM_API_KEY to the proxy's master key"
        return ProxyFailed(f"{self.server} answered {status} to {path}", remedy=remedy)

    def _odd(self, path: str) -> ProxyFailed:
        return ProxyFailed(
            f"{self.server} answered {path} with something else than LiteLLM does",
            remedy="check that LITELLM_BASE_URL is a LiteLLM proxy's",
        )


def proxy_of(base_url: str | None, master_key: str | None) -> LiteLLMProxy:
    """The proxy that the settings name. Raises InvalidInput where they name none, or no key for it."""
    if not base_url or not master_key:
        raise InvalidInput(
            "no LiteLLM proxy is set",
            remedy="set LITELLM_BASE_URL, and LITELLM_API_KEY to its master key",
            field="litellm_base_url",
        )
    return LiteLLMProxy(base_url, master_key)


def reconcile(ours: Mapping[str, Decimal | None], theirs: Mapping[str, Decimal]) -> list[Difference]:
    """Lay the ledger's costs beside the proxy's, by tag or by agent; where they differ most comes first."""
    names = dict.fromkeys([*ours, *theirs])
    found = [Difference(name, ours.get(name), theirs.get(name)) for name in names]
    return sorted(found, key=lambda each: (-abs(each.amount), each.name))


async def _text(response: aiohttp.ClientResponse) -> str:
    """A body, as far as its limit."""
    pieces = bytearray()
    async for piece in response.content.iter_any():
        pieces += piece
        if len(pieces) > MAX_REPLY_BYTES:
            break
    return pieces[:MAX_REPLY_BYTES].decode(errors="replace")


def _dollars(value: Any) -> Decimal:
    return Decimal(str(value or 0))
