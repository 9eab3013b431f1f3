"""What earlier claims of an attempt left in its journal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from meshwright.kernel.envelope import ActorRef, Record
from meshwright.kernel.runtime import Runtime
from meshwright.work.protocol import StepKey, answers_stream, claim_stream


class Earlier:
    """The steps that are done (`results`, by path), those that may be (`intents`), and how branches began."""

    def __init__(
        self, records: Sequence[Record], answers: Sequence[Record], waits: Sequence[StepKey], stream: str
    ) -> None:
        self.values = [record.value for record in (*records, *answers)]
        self.results: dict[str, dict[str, Any]] = {}
        self.intents: dict[str, dict[str, Any]] = {}
        self.steps = 0
        """The highest number of a step."""
        self.answers = max((record.n for record in answers), default=0)
        self.last_record = max((record.n for record in records if record.stream == stream), default=0)
        self.waits = {key.path for key in waits}
        """The paths of the steps that the attempt waits for."""
        self._branches: dict[str, dict[int, tuple[str, str] | None]] = {}
        for record in (*records, *answers):
            self._index(record)
        for key in waits:
            self._index_branch(key.path, (key.kind, key.hash))

    def branches(self, prefix: str) -> dict[int, tuple[str, str] | None]:
        """The branches of a scope, with kind and hash of the first step; None where that never ended."""
        return self._branches.get(prefix, {})

    def _index(self, record: Record) -> None:
        value = record.value
        if "kind" not in value:
            return  # calls whose step was never journaled, or the beginning of a claim
        if "path" not in value:  # as the first versions wrote steps: numbered, and twice as many records
            number, is_result = divmod(record.n, 2)
            value = {**value, "path": str(number), "number": number, "siblings": value.get("last", number)}
            if not is_result and not value.get("repeatable", False):
                value["intent"] = True
            elif not is_result:
                return
        known = self.intents if "intent" in value else self.results
        known[value["path"]] = value
        self.steps = max(self.steps, value["number"])
        self._index_branch(value["path"], (value["kind"], value["hash"]))

    def _index_branch(self, path: str, step: tuple[str, str]) -> None:
        """Note how the branches began that a path is in."""
        parts = path.split(".")
        for i, part in enumerate(parts):
            if part.startswith("b"):
                number = int(part[1:])
                begins = step if parts[i + 1 :] == ["1"] else None
                before = self._branches.setdefault("".join(f"{above}." for above in parts[:i]), {})
                before[number] = before.get(number) or begins


async def has_steps(host: Runtime, ref: ActorRef, stream: str) -> bool:
    """Whether the claim that wrote a stream finished a step."""
    return any("result" in record.value for record in await host.records(ref, stream))


async def read_steps(
    host: Runtime, ref: ActorRef, steps: str, claims: int = 0
) -> tuple[list[Record], list[Record]]:
    """What the claims of an attempt wrote, at least so many, and the answers to what it waited for."""
    records: list[Record] = []
    claim = 0
    while (found := await host.records(ref, claim_stream(steps, claim))) or claim < claims:
        records += found
        claim += 1
    return records, await host.records(ref, answers_stream(steps))


async def streams_of(host: Runtime, ref: ActorRef, steps: str) -> list[str]:
    """The streams in which the steps of an attempt are."""
    records, _ = await read_steps(host, ref, steps, 1)  # the first claim may have left nothing
    return [steps, *dict.fromkeys(record.stream for record in records), answers_stream(steps)]
