"""The records that earlier claims of an attempt left in its journal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from meshwright.kernel.envelope import ActorRef, Record
from meshwright.kernel.runtime import Runtime
from meshwright.work.people import RESTART
from meshwright.work.protocol import DELEGATE, StepKey, answers_stream, claim_stream


class CutSteps(NamedTuple):
    """How many calls of models, cut off by the end of their process, are recorded nowhere, as of a record.

    `ended_in` is the stream of the claim whose own call has ended, and is recorded.
    """

    count: int
    ended_in: str | None = None


class Earlier:
    """The steps that are done (`results`, by path), those that may be (`intents`), and how branches began.

    `kept` are answers that attempts before it got, whose journals could not be followed, `continued` the
    records of the attempts that it goes on with.
    """

    def __init__(
        self,
        records: Sequence[Record],
        answers: Sequence[Record],
        waits: Sequence[StepKey],
        stream: str,
        kept: Sequence[Record] = (),
        continued: Sequence[Record] = (),
    ) -> None:
        self.values = [record.value for record in (*continued, *records, *answers)]
        self.results: dict[str, dict[str, Any]] = {}
        self.intents: dict[str, dict[str, Any]] = {}
        self.steps = 0
        """The highest number of a step."""
        self.answers = answers[-1].n if answers else 0
        self.last_record = 0
        self.cut: dict[str, CutSteps] = {}
        """Steps that called a model and have no result, by path."""
        self.begun: dict[str, int] = {}
        """How often each step began that has an intent, by path."""
        self.waits = {key.path: key for key in waits}
        """The steps that the attempt waits for, by path."""
        self._around: set[str] = set()
        self._branches: dict[str, dict[int, tuple[str, str] | None]] = {}
        for record in (*continued, *records, *answers):
            self._index(record)
            if record.stream == stream:
                self.last_record = record.n
        for key in waits:
            self._index_branch(key.path, (key.kind, key.hash))
        self._kept = {_name_of(record): record.value for record in kept}
        for value in self.results.values():
            self._kept.pop(value.get("kept", ""), None)

    def branches(self, prefix: str) -> dict[int, tuple[str, str] | None]:
        """The branches of a scope, with kind and hash of the first step; None where that never ended."""
        return self._branches.get(prefix, {})

    def step_at(self, path: str) -> str | None:
        """The kind of the step at a path, "" if only steps within it are known; None if there is none."""
        known = self.results.get(path) or self.intents.get(path)
        if known is not None:
            return str(known["kind"])
        if path in self.waits:
            return self.waits[path].kind
        return "" if path in self._around else None

    def take_kept(self, key: StepKey) -> tuple[str, dict[str, Any]] | None:
        """The first answer left of those that attempts before got to the same question, and its name."""
        for name, value in self._kept.items():
            if (value["kind"], value["hash"]) == (key.kind, key.hash) and "result" in value:
                del self._kept[name]
                return name, value
        return None

    def _index(self, record: Record) -> None:
        value = record.value
        if "cut" in value:
            path, count = value["cut"]
            self.cut[path] = CutSteps(count, record.stream if "calls" in value else None)
        if "again" in value:
            self._index_branch(value["again"]["path"], (value["again"]["kind"], value["again"]["hash"]))
        if "kind" not in value:
            return  # calls whose step was never journaled, or the beginning of a claim
        known = self.intents if "intent" in value else self.results
        known[value["path"]] = value
        if "intent" in value:
            self.begun[value["path"]] = self.begun.get(value["path"], 0) + 1
        self.steps = max(self.steps, value["number"])
        self._index_branch(value["path"], (value["kind"], value["hash"]))

    def _index_branch(self, path: str, step: tuple[str, str]) -> None:
        """Note how the branches began that a path is in."""
        parts = path.split(".")
        for i, part in enumerate(parts):
            self._around.add(".".join(parts[:i]))
            if part.startswith("b"):
                number = int(part[1:])
                begins = step if parts[i + 1 :] == ["1"] else None
                before = self._branches.setdefault("".join(f"{above}." for above in parts[:i]), {})
                before[number] = before.get(number) or begins


def _name_of(record: Record) -> str:
    return f"{record.stream}/{record.n}"


async def has_steps(host: Runtime, ref: ActorRef, stream: str) -> bool:
    """Whether the claim that wrote a stream finished a step."""
    return any("result" in record.value for record in await host.records(ref, stream))


async def read_steps(
    host: Runtime, ref: ActorRef, steps: str, claims: int = 0
) -> tuple[list[Record], list[Record]]:
    """The records of an attempt's claims, at least so many of them, and the answers to its waits."""
    records: list[Record] = []
    claim = 0
    while (found := await host.records(ref, claim_stream(steps, claim))) or claim < claims:
        records += found
        claim += 1
    return records, await host.records(ref, answers_stream(steps))


async def read_continued(host: Runtime, ref: ActorRef, steps: str) -> list[Record]:
    """The records of an attempt that another goes on with, but for the steps that ended it.

    Those are refused restarts, and, if no step came after them, errors of models, failed ends of delegated
    tasks and questions that no one answered in time. They run again; the cost of their calls stays.
    """
    records, answers = await read_steps(host, ref, steps, 1)  # the first claim may have left nothing
    begun = [record.value for record in (*records, *answers) if "kind" in record.value]
    return [
        _to_run_again(record) if _has_ended_it(record.value, begun) else record
        for record in (*records, *answers)
    ]


def _to_run_again(record: Record) -> Record:
    """A record that says where a step began, and what its calls cost."""
    key = {name: record.value[name] for name in StepKey.__struct_fields__}
    return Record(record.ref, record.stream, record.n, {"again": key, "calls": record.value.get("calls", [])})


def _has_ended_it(step: dict[str, Any], begun: Sequence[dict[str, Any]]) -> bool:
    if "kind" not in step:
        return False
    result = step.get("result")
    fields = result if isinstance(result, dict) else {}
    if step["kind"] == RESTART:
        return "result" in step and not fields.get("approve")
    has_failed = "is_error" in step or "expired" in step
    has_failed = has_failed or (step["kind"] == DELEGATE and "result" in step and not fields.get("success"))
    return has_failed and not any(_came_after(other, step) for other in begun)


def _came_after(step: dict[str, Any], answer: dict[str, Any]) -> bool:
    """Whether the run got past an answer to a step; those of branches beside it say nothing about that."""
    path, own = step["path"].split("."), answer["path"].split(".")
    pairs = enumerate(zip(path, own, strict=False))
    place = next((i for i, (one, other) in pairs if one != other), len(path))
    if place == len(path):  # the step around it ended, or it is the answer itself
        return len(path) < len(own)
    is_beside = path[place].startswith("b") and own[place].startswith("b")
    return step["number"] > answer["number"] and not is_beside


async def streams_of(host: Runtime, ref: ActorRef, steps: str) -> list[str]:
    """The streams in which the steps of an attempt are."""
    records, _ = await read_steps(host, ref, steps, 1)  # the first claim may have left nothing
    return [steps, *dict.fromkeys(record.stream for record in records), answers_stream(steps)]
