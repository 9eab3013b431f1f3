"""The oracle of `make crash`: it sees what is repeated, what is missing, and what is asked."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from decimal import Decimal
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from benchmarks.crash.outside import Shop
from benchmarks.crash.sides import SCENARIOS, Bounds, Scenario, try_out

LEDGER = Decimal("0.044")


class InProcess:
    """Does the task in this process, by the replies of the provider, and keeps its messages."""

    keeps = True

    def __init__(self, framework: str, folder: Path, environment: dict[str, str]) -> None:
        self._provider, self._shop = environment["PROVIDER_URL"], environment["SHOP_URL"]
        self._messages: list[dict[str, Any]] = []
        self._work: asyncio.Task[None] | None = None

    async def start(self) -> None:
        if not self.keeps:
            self._messages = []
        self._work = asyncio.create_task(self._do())

    async def kill(self) -> None:
        assert self._work is not None
        self._work.cancel()
        with suppress(asyncio.CancelledError):
            await self._work

    async def close(self) -> None:
        await self.kill()

    async def is_asking(self) -> bool:
        return False

    async def answer(self, shop: Shop) -> None:
        raise AssertionError("it asks nobody")

    async def has_ended(self) -> bool | None:
        return None if self._work is None or not self._work.done() else self._work.exception() is None

    async def asked(self) -> int:
        return 0

    async def cost_usd(self) -> Decimal:
        return LEDGER

    async def _do(self) -> None:
        async with aiohttp.ClientSession() as session:
            while True:
                body = {"model": "crash", "messages": self._messages}
                async with session.post(f"{self._provider}/v1/chat/completions", json=body) as answered:
                    message = (await answered.json())["choices"][0]["message"]
                if not message.get("tool_calls"):
                    return
                [call] = message["tool_calls"]
                try:
                    async with session.post(f"{self._shop}/{call['function']['name']}") as response:
                        result = await response.text()
                except aiohttp.ClientError as error:
                    result = f"it failed: {error}"
                answer = {"role": "tool", "content": result, "tool_call_id": call["id"]}
                self._messages += [message, answer]


class Forgetful(InProcess):
    """Keeps nothing."""

    keeps = False


class Endless(InProcess):
    """Does the task again and again."""

    async def _do(self) -> None:
        while True:
            self._messages = []
            await super()._do()


class Asking(InProcess):
    """Asks a person about the same again and again."""

    questions = 0

    async def is_asking(self) -> bool:
        return True

    async def answer(self, shop: Shop) -> None:
        self.questions += 1

    async def asked(self) -> int:
        return self.questions

    async def _do(self) -> None:
        await asyncio.Event().wait()


class Idle(InProcess):
    """Ends at once."""

    async def _do(self) -> None:
        return


async def cell(side: type[InProcess], name: str, folder: Path) -> str:
    [scenario] = [scenario for scenario in SCENARIOS if scenario.name == name]
    return (await try_out(side, "none", scenario, folder, {})).text


@pytest.mark.parametrize(
    ("side", "scenario", "text"),
    [
        (InProcess, "before the refund", "1 calls again, ledger -0.011"),
        (InProcess, "behind the refund", "2 refunds, 1 calls again, ledger -0.011"),
        (Forgetful, "before the refund", "2 calls again, ledger -0.022"),
        (Forgetful, "behind the refund", "2 refunds, 2 calls again, ledger -0.022"),
        (Forgetful, "between refund and notice", "2 refunds, 3 calls again, ledger -0.033"),
        (InProcess, "reply of the refund lost", "2 refunds, ledger -0.011"),
        (Idle, "reply of the refund lost", "0 refunds, 0 notices, ledger +0.044"),
    ],
)
async def test_oracle_counts_what_is_repeated(
    side: type[InProcess], scenario: str, text: str, tmp_path: Path
) -> None:
    assert await cell(side, scenario, tmp_path) == text


@pytest.mark.parametrize(
    ("side", "bounds", "text"),
    [
        (Endless, Bounds(calls=9), "did not end in 9 calls"),
        (Asking, Bounds(questions=3), "did not end in 3 questions, 0 refunds, 0 notices, asked 3"),
        (Asking, Bounds(seconds=0.01), "did not end in 0 s, 0 refunds, 0 notices, asked 1"),
    ],
)
async def test_task_without_an_end_is_shown_with_its_bound(
    side: type[InProcess], bounds: Bounds, text: str, tmp_path: Path
) -> None:
    trial = await try_out(side, "none", Scenario("undisturbed"), tmp_path, {}, bounds)
    assert trial.text.startswith(text)


async def test_undisturbed_task_is_right(tmp_path: Path) -> None:
    trial = await try_out(InProcess, "none", Scenario("undisturbed"), tmp_path, {})
    assert trial.text == "right" and not trial.fault
