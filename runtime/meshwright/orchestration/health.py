"""Probes of what agents depend on: one GET a URL, within three seconds, its answer kept and shared."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from meshwright.orchestration.registry import Registry, StatusChange

if TYPE_CHECKING:
    from aiohttp import ClientSession

_PROBE_TIMEOUT_SECONDS = 3.0
_KEEP_SECONDS = 15.0
_MAX_PROBES = 32  # at once


class HealthProbes:
    """Probes the health-check URLs of all registered agents. Owns one HTTP session; close it.

    A URL is healthy when it answers with a status below 400. Answers are kept for `keep_seconds`.
    """

    def __init__(
        self,
        registry: Registry,
        *,
        timeout_seconds: float = _PROBE_TIMEOUT_SECONDS,
        keep_seconds: float = _KEEP_SECONDS,
    ) -> None:
        self._registry = registry
        self._timeout_seconds = timeout_seconds
        self._keep_seconds = keep_seconds
        self._answers: dict[str, tuple[float, str | None]] = {}
        self._limit = asyncio.Semaphore(_MAX_PROBES)
        self._session: ClientSession | None = None

    async def probe_all(self) -> list[StatusChange]:
        """Probe what is not known freshly, tell the registry, and return which agents' health changed."""
        wanted = {
            agent.agent_id: [str(url) for url in agent.health_check_urls] for agent in self._registry.agents()
        }
        urls = {url for needed in wanted.values() for url in needed}
        problems = dict(zip(urls, await asyncio.gather(*map(self._problem, urls)), strict=True))
        self._answers = {url: answer for url, answer in self._answers.items() if url in urls}
        changes = []
        for agent_id, needed in wanted.items():
            problem = "; ".join(text for url in needed if (text := problems[url])) or None
            changes.append(self._registry.set_problem(agent_id, problem))
        return [change for change in changes if change is not None]

    async def close(self) -> None:
        """Give back the connections."""
        if self._session is not None:
            await self._session.close()

    async def _problem(self, url: str) -> str | None:
        """What is wrong with a URL, or None."""
        kept_until, problem = self._answers.get(url, (0.0, None))
        if time.monotonic() < kept_until:
            return problem
        async with self._limit:
            problem = await self._probe(url)
        self._answers[url] = (time.monotonic() + self._keep_seconds, problem)
        return problem

    async def _probe(self, url: str) -> str | None:
        from aiohttp import ClientError, ClientSession, ClientTimeout

        if self._session is None:
            self._session = ClientSession(timeout=ClientTimeout(total=self._timeout_seconds))
        try:
            async with self._session.get(url, allow_redirects=False) as response:
                return None if response.status < 400 else f"{url} answered {response.status}"
        except TimeoutError:
            return f"{url} did not answer within {self._timeout_seconds:g} s"
        except (ClientError, OSError) as error:
            return f"{url} cannot be reached: {error or type(error).__name__}"
