"""The records that earlier claims of an attempt left in its journal, and those that a fork begins with."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from pydantic_core import to_json

from meshwright.core.errors import Conflict, NotFound
from meshwright.core.messages import ForkedFrom, Task
from meshwright.engine.kernel.envelope import ActorRef, Record
from meshwright.engine.kernel.runtime import Runtime
from meshwright.engine.work.people import RESTART
from meshwright.engine.work.protocol import (
    DELEGATE,
    TOOL,
    EndedAttempt,
    StepKey,
    TaskKey,
    answers_stream,
    claim_stream,
    hash_request,
)
from meshwright.engine.work.record import NO_TASK, DispatchedTask, journal_names, unknown_task
from meshwright.engine.work.results import RecordedOrder


class CutSteps(NamedTuple):
    """How many calls of models, cut off by the end of their process, are recorded nowhere, as of a record.

    `ended_in` is the stream of the claim whose own call has ended, and is recorded; `begun_in` that of the
    claim that was to make another.
    """

    count: int
    ended_in: str | None = None
    begun_in: str | None = None


class Earlier:
    """Finished steps (`results`, by path), steps that may have run (`intents`), and how branches began.

    `unspent` are answers from earlier attempts whose journals could not be followed, `continued` the records
    of the attempts that this one goes on with.
    """

    def __init__(
        self,
        records: Sequence[Record],
        answers: Sequence[Record],
        waits: Sequence[StepKey],
        stream: str,
        unspent: Sequence[Record] = (),
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
        self._requests: defaultdict[str, defaultdict[str, dict[int, set[str]]]]
        self._requests = defaultdict(lambda: defaultdict(dict))
        self.orders: dict[str, RecordedOrder] = {}
        """The order in which results of branches reached the code, by the prefix of their scope."""
        self._orders_in: dict[str, str] = {}
        """The stream in which each order began."""
        self._unfinished: set[str] = set()
        self._numbered: dict[str, dict[str, tuple[str, str] | None]] = {}
        self._nths: defaultdict[tuple[str, str, str], dict[int, str]] = defaultdict(dict)
        for record in (*continued, *records, *answers):
            self._index(record)
            if record.stream == stream:
                self.last_record = record.n
        for prefix, order in self.orders.items():
            own = [r for r in (*continued, *answers) if _is_answer_in(r, self._orders_in[prefix])]
            order.before |= {r.value["path"] for r in own if r.n <= order.answers and "path" in r.value}
        for key in waits:
            self._index_path(key.path, (key.kind, key.hash))
            self._index_request(key.path)
            self._nths[parent_path(key.path), key.kind, key.hash][key.nth] = key.path
        self._unspent = {_record_name(record): record.value for record in unspent}
        for value in self.results.values():
            self._unspent.pop(value.get("kept", ""), None)  # a claim of this attempt has taken it over

    def numbered_branches(self, prefix: str) -> dict[str, tuple[str, str] | None]:
        """The branches of a scope that a former release numbered in the order of their starts.

        With kind and hash of the first step; None where that never ended.
        """
        return self._numbered.get(prefix, {})

    def requests_in(self, prefix: str) -> Mapping[str, Mapping[int, Collection[str]]]:
        """The recorded branches of a scope that are named by their requests, by name and number.

        With the kinds of the results in each.
        """
        return self._requests.get(prefix, {})

    def last_branches_in(self, prefix: str) -> Mapping[str, int]:
        """The highest number of each branch of a scope that is named and numbered, whatever came of it."""
        numbers = dict[str, int]()
        for path in (*self.results, *self.intents, *self._unfinished):
            name, _, nth = path[len(prefix) :].partition(".")[0].rpartition("x")
            if path.startswith(prefix) and is_branch(name) and nth.isdigit():
                numbers[name] = max(numbers.get(name, 0), int(nth))
        return numbers

    def last_program_calls(self, number: int) -> Mapping[str, int]:
        """The last number of each call of programs, by its path, among those that began by a step."""
        numbers = dict[str, int]()
        for path, step in (*self.results.items(), *self.intents.items()):
            parts = path.split(".")
            at = next((at for at, part in enumerate(parts, start=1) if is_of_program(part)), None)
            if at is not None and step["number"] <= number:
                name, _, nth = ".".join(parts[:at]).rpartition("x")
                numbers[name] = max(numbers.get(name, 0), int(nth))
        return numbers

    def unended_calls(self, prefix: str, name: str) -> list[int]:
        """The numbers of the recorded branches of a name in a scope in which no tool has ended."""
        numbers, ended = set[int](), set[int]()
        for path, step in (*self.results.items(), *self.intents.items(), *self._wait_kinds()):
            branch = path[len(prefix) :].partition(".")[0]
            head, _, nth = branch.rpartition("x")
            if not (path.startswith(prefix) and head == name and nth.isdigit()):
                continue
            numbers.add(int(nth))
            if path in self.results and step["kind"].startswith(TOOL):
                ended.add(int(nth))
        return sorted(numbers - ended)

    def _wait_kinds(self) -> Iterable[tuple[str, dict[str, Any]]]:
        return ((path, {"kind": key.kind}) for path, key in self.waits.items())

    def number_at(self, path: str) -> int:
        """The number of the step at a path, for people; 0 where none is known."""
        record = self.results.get(path) or self.intents.get(path)
        if record is not None:
            return int(record["number"])
        return self.waits[path].number if path in self.waits else 0

    def has_begun(self, path: str) -> bool:
        """Whether an earlier claim is known to have begun the step at a path, whatever came of it."""
        return path in self._unfinished or self.step_at(path) is not None

    def nth_at(self, path: str, kind: str, request_hash: str) -> int | None:
        """The number of the step of a kind and hash that is known at a path; None where there is none."""
        record = self.results.get(path) or self.intents.get(path)
        if record is not None and (record["kind"], record["hash"]) == (kind, request_hash):
            return int(record.get("nth", 1))
        wait = self.waits.get(path)
        return wait.nth if wait is not None and (wait.kind, wait.hash) == (kind, request_hash) else None

    def nths(self, key: tuple[str, str, str]) -> Collection[int]:
        """The numbers of the steps of a kind and hash within the step at a path."""
        return self._nths.get(key, ())

    def changed_paths(self, key: StepKey) -> list[str]:
        """The paths of the steps that a step is counted with, and that may have changed something.

        Those of programs outside are not: they need not come again. Delegated tasks are among them, whatever
        they have done.
        """
        paths = self._nths.get((parent_path(key.path), key.kind, key.hash), {}).values()
        own = [path for path in paths if not any(map(is_of_program, path.split(".")))]
        return [path for path in own if key.kind == DELEGATE or self._has_changed(path)]

    def _has_changed(self, path: str) -> bool:
        step = {**self.intents.get(path, {}), **self.results.get(path, {})}
        return bool(step) and _may_have_changed(step)

    def step_at(self, path: str) -> str | None:
        """The kind of the step at a path, "" if only steps within it are known; None if there is none."""
        record = self.results.get(path) or self.intents.get(path)
        if record is not None:
            return str(record["kind"])
        if path in self.waits:
            return self.waits[path].kind
        return "" if path in self._around else None

    def take_unspent(self, key: StepKey) -> tuple[str, dict[str, Any]] | None:
        """The first unspent answer to the same question, and its name."""
        for name, value in self._unspent.items():
            if (value["kind"], value["hash"]) == (key.kind, key.hash) and "result" in value:
                del self._unspent[name]
                return name, value
        return None

    def _index(self, record: Record) -> None:
        value = record.value
        for prefix, order in value.get("order", {}).items():
            if prefix not in self.orders:
                self.orders[prefix] = RecordedOrder(before=() if "before" in order else self.results)
                self._orders_in[prefix] = record.stream
            self.orders[prefix].add(order)
            for branch in order.get("given_up", ()):
                self._index_request(f"{prefix}{branch}.1")
        if "cut" in value:
            path, count = value["cut"]
            place = "ended_in" if "calls" in value else "begun_in"
            self.cut[path] = CutSteps(count, **{place: record.stream})
            self._unfinished.add(path)
        if "failed" in value:
            self._unfinished.add(value["failed"]["path"])
        if "again" in value:
            self._unfinished.add(value["again"]["path"])
            self._index_path(value["again"]["path"], (value["again"]["kind"], value["again"]["hash"]))
        if "kind" not in value:
            return  # calls whose step was never journaled, or the beginning of a claim
        steps = self.intents if "intent" in value else self.results
        steps[value["path"]] = value
        if "intent" in value:
            self.begun[value["path"]] = self.begun.get(value["path"], 0) + 1
        self.steps = max(self.steps, value["number"])
        self._index_path(value["path"], (value["kind"], value["hash"]))
        self._index_request(value["path"], "" if "intent" in value else value["kind"])
        self._nths[parent_path(value["path"]), value["kind"], value["hash"]][value.get("nth", 1)] = value[
            "path"
        ]

    def _index_path(self, path: str, step: tuple[str, str]) -> None:
        """Note the steps around a path, and how the numbered branches around it began."""
        parts = path.split(".")
        for i, part in enumerate(parts):
            self._around.add(".".join(parts[:i]))
            if is_branch(part) and part[1:].isdigit():
                begins = step if parts[i + 1 :] == ["1"] else None
                before = self._numbered.setdefault("".join(f"{above}." for above in parts[:i]), {})
                before[part] = before.get(part) or begins

    def _index_request(self, path: str, kind: str = "") -> None:
        """Note the branches around a path that are named by requests, and the kind of a result in them."""
        parts = path.split(".")
        for i, part in enumerate(parts):
            if is_request(part):
                name, _, nth = part.rpartition("x")
                prefix = "".join(f"{above}." for above in parts[:i])
                kinds = self._requests[prefix][name].setdefault(int(nth), set())
                if kind and i == len(parts) - 2:
                    kinds.add(kind)


PROGRAM, PROGRAM_REQUEST = "bp", "byp"
"""The beginnings of names of branches in which programs outside call tools, and models."""


def is_of_program(part: str) -> bool:
    """Whether a part of a path names a branch of a program outside, which the code of the run is not."""
    return part.startswith((PROGRAM, PROGRAM_REQUEST))


def is_branch(part: str) -> bool:
    """Whether a part of a path names a branch, rather than counts a step."""
    return part.startswith("b")


def is_request(part: str) -> bool:
    """Whether a part of a path names a branch by its request alone: see `Paths.by_request`."""
    return part.startswith("by")


def parent_path(path: str) -> str:
    """The path of the step that a step is within, whatever the branch; no text for the run itself."""
    parts = path.split(".")[:-1]
    while parts and is_branch(parts[-1]):
        parts.pop()
    return ".".join(parts)


_APPROVE = "approve "  # begins the kind of a step


def _record_name(record: Record) -> str:
    return f"{record.stream}/{record.n}"


def _is_answer_in(record: Record, stream: str) -> bool:
    """Whether a record is an answer to the attempt that one of its claims wrote the stream of."""
    name = answers_stream("")
    return record.stream.endswith(name) and f"{stream}/".startswith(f"{record.stream.removesuffix(name)}/")


def changing_steps(records: Sequence[Record]) -> list[str]:
    """The kinds of steps that may have changed something outside, in the records of an attempt."""
    steps: dict[str, dict[str, Any]] = {}
    for record in records:
        step = record.value.get("failed", record.value)
        if "kind" in step:
            steps[step["path"]] = {**steps.get(step["path"], {}), **step}
    return [step["kind"] for step in steps.values() if _may_have_changed(step)]


def _may_have_changed(step: Mapping[str, Any]) -> bool:
    result = step.get("result")
    fields = result if isinstance(result, dict) else {}
    if step["kind"] == DELEGATE:
        return bool(fields.get("changed"))
    if not step["kind"].startswith(TOOL):
        return "intent" in step
    has_ended = "error" in step or {"value", "error"} <= fields.keys()
    return bool("changed" in fields or step.get("changed") or ("intent" in step and not has_ended))


def unspent_answers(attempts: Iterable[tuple[Sequence[Record], Sequence[Record]]]) -> list[Record]:
    """The answers that a later attempt may use: all but approvals of calls that have begun, in any of them.

    `attempts` are the steps and the answers of each, oldest first.
    """
    answers: list[Record] = []
    spent: set[str] = set()
    for records, own in attempts:
        answers += own
        values = (record.value for record in records if record.value.get("kind", "").startswith(TOOL))
        calls = {value["path"]: value for value in values}
        approvals = list(filter(is_approval, (*records, *own)))
        spent |= {
            record.value.get("kept", _record_name(record)) for record in _spent(approvals, calls.values())
        }
    return [answer for answer in answers if _record_name(answer) not in spent]


def _spent(approvals: Sequence[Record], calls: Collection[Mapping[str, Any]]) -> Iterator[Record]:
    """The approvals whose calls have begun.

    A framework has its calls approved in one place and makes them in another: there, a call spends one yes to
    an equal call, or one that changed its arguments to these, if nobody was asked about them as well.
    """
    elsewhere = [
        call for call in calls if not any(is_used(record.value["path"], [call]) for record in approvals)
    ]
    for record in sorted(approvals, key=lambda record: (_has_changed(record.value), record.value["number"])):
        approval = record.value
        if is_used(approval["path"], calls):
            yield record
        elif (approval.get("result") or {}).get("approve"):
            call = next((call for call in elsewhere if _is_of_approval(call, approval)), None)
            if call is not None:
                elsewhere.remove(call)
                yield record


def _is_of_approval(call: Mapping[str, Any], approval: Mapping[str, Any]) -> bool:
    """Whether a call has the tool and the arguments of an approval, and came later."""
    is_same_tool = call["kind"].removeprefix(TOOL) == approval["kind"].removeprefix(_APPROVE)
    if not is_same_tool or call["number"] <= approval["number"]:
        return False
    if not _has_changed(approval):
        return bool(call["hash"] == approval["hash"])
    arguments = approval["result"]["arguments"]
    texts = (
        json.dumps(arguments, ensure_ascii=False),
        to_json(arguments).decode(),
    )  # a framework writes its own
    return call["hash"] in {hash_request({"arguments": text}) for text in texts}


def _has_changed(approval: Mapping[str, Any]) -> bool:
    """Whether a decision replaced the arguments of its call."""
    return (approval.get("result") or {}).get("arguments") is not None


def is_approval(record: Record) -> bool:
    """Whether a record is the answer to the question whether a tool may run."""
    return "answered_at" in record.value and record.value["kind"].startswith(_APPROVE)


def is_used(path: str, calls: Iterable[Mapping[str, Any]]) -> bool:
    """Whether one of the calls came after the decision at a path, where that is."""
    *scope, place = path.split(".")
    places = (call["path"].split(".") for call in calls)
    return any(other[:-1] == scope and int(other[-1]) > int(place) for other in places)


async def has_steps(runtime: Runtime, ref: ActorRef, stream: str) -> bool:
    """Whether the claim that wrote a stream finished a step."""
    return any("result" in record.value for record in await runtime.records(ref, stream))


async def read_steps(
    runtime: Runtime, ref: ActorRef, steps: str, claims: int = 0
) -> tuple[list[Record], list[Record]]:
    """The records of an attempt's claims, at least so many of them, and the answers to its waits."""
    records: list[Record] = []
    claim = 0
    # Only the first claims may have left nothing: each later one begins with a record.
    while (claim_records := await runtime.records(ref, claim_stream(steps, claim))) or claim < claims:
        records += claim_records
        claim += 1
    return records, await runtime.records(ref, answers_stream(steps))


async def read_continued(runtime: Runtime, ref: ActorRef, steps: str) -> list[Record]:
    """The records of an attempt that another goes on with, but for the steps that ended it.

    Those are refused restarts, and, if no step came after them, errors of models, failed ends of delegated
    tasks and questions that no one answered in time. They run again; the cost of their calls stays.
    """
    records, answers = await read_steps(runtime, ref, steps, 1)  # the first claim may have left nothing
    steps_begun = [record.value for record in (*records, *answers) if "kind" in record.value]
    return [
        _to_run_again(record) if _has_ended_it(record.value, steps_begun) else record
        for record in (*records, *answers)
    ]


def _to_run_again(record: Record) -> Record:
    """A record that says where a step began, and what its calls cost."""
    key = {name: record.value[name] for name in StepKey.__struct_fields__ if name in record.value}
    value = {"again": key, "calls": record.value.get("calls", []), "order": record.value.get("order", {})}
    return Record(record.ref, record.stream, record.n, value)


def _has_ended_it(step: dict[str, Any], steps_begun: Sequence[dict[str, Any]]) -> bool:
    if "kind" not in step:
        return False
    result = step.get("result")
    fields = result if isinstance(result, dict) else {}
    if step["kind"] == RESTART:
        return "result" in step and not fields.get("approve")
    has_failed = "is_error" in step or "expired" in step
    has_failed = has_failed or (step["kind"] == DELEGATE and "result" in step and not fields.get("success"))
    return has_failed and not any(_came_after(other, step) for other in steps_begun)


def _came_after(step: dict[str, Any], answer: dict[str, Any]) -> bool:
    """Whether the run got past an answer to a step. Steps of branches beside it do not tell."""
    path, own = step["path"].split("."), answer["path"].split(".")
    pairs = enumerate(zip(path, own, strict=False))
    place = next((i for i, (one, other) in pairs if one != other), len(path))
    if place == len(path):  # the step around it ended, or it is the answer itself
        return len(path) < len(own)
    if is_request(path[place]) and is_request(own[place]):  # it began after the answer had come
        return bool(step["number"] > answer.get("last", answer["number"]))
    is_beside = is_branch(path[place]) and is_branch(own[place])
    return step["number"] > answer["number"] and not is_beside


async def step_streams(runtime: Runtime, ref: ActorRef, steps: str) -> list[str]:
    """The streams in which the steps of an attempt are."""
    records, _ = await read_steps(runtime, ref, steps, 1)  # the first claim may have left nothing
    return [steps, *dict.fromkeys(record.stream for record in records), answers_stream(steps)]


_SHOWN = 5  # steps, where one is not there


async def read_forked(runtime: Runtime, task: Task) -> list[Record]:
    """The records that a fork begins with; none for any other task. Raises what `read_origin` raises.

    They are read where they are, and stay as they are: no reply is made, or paid for, again.
    """
    if task.forked_from is None:
        return []
    return (await read_origin(runtime, task.tenant_id, task.forked_from)).records


class StepOrigin(NamedTuple):
    """The path of the step that a fork goes on from, and the records that it begins with."""

    path: str
    records: list[Record]


def path_named(name: str, numbers: Mapping[str, int]) -> str:
    """The path of the step that a path or a number names, of steps with these numbers; else the name itself.

    Calls of models by a framework have paths that nobody types, and a number as any other step. A path goes
    first.
    """
    if name in numbers or not (name.isascii() and name.isdigit()):
        return name
    return next((path for path, number in numbers.items() if number == int(name)), name)


async def read_origin(runtime: Runtime, tenant_id: str, origin: ForkedFrom) -> StepOrigin:
    """The records of an attempt's finished steps up to one, without what their calls cost.

    Those are the steps that began no later than that one, and those within it; a step around it begins again.
    Raises NotFound for a task, an attempt or a step that is not there, Conflict for a step that failed.
    """
    stored = await runtime.read(TaskKey(tenant_id, origin.task_id).ref, DispatchedTask)
    if stored is None or stored.task_json == NO_TASK:
        raise unknown_task(origin.task_id)
    task = Task.model_validate_json(stored.task_json)
    if not 1 <= origin.attempt <= len(stored.attempts):
        raise NotFound(
            f"Task {origin.task_id} has no attempt {origin.attempt}; it has {len(stored.attempts)}",
            remedy=f"mesh task {origin.task_id} shows them",
            field="attempt",
        )
    ref = ActorRef(stored.attempts[origin.attempt - 1].agent_id, f"{tenant_id}:{task.thread_id}")
    records = await read_forked(runtime, task)
    *before, last = journal_names(origin.task_id, stored.attempts, origin.attempt)
    for steps in before:
        records += await read_continued(runtime, ref, steps)
    own, answers = await read_steps(runtime, ref, last, 1)  # the first claim may have left nothing
    return _up_to(origin, [*records, *own, *answers])


def _up_to(origin: ForkedFrom, records: Sequence[Record]) -> StepOrigin:
    steps = [record for record in records if "kind" in record.value and record.value["kind"] != RESTART]
    results = {record.value["path"]: record.value for record in steps if "result" in record.value}
    failed = {record.value["path"] for record in steps if "expired" in record.value}
    path = path_named(origin.step, _step_numbers(records))
    last = results.get(path)
    if last is None and path not in failed:
        finished = sorted(results.values(), key=lambda value: value["number"])
        paths = ", ".join(value["path"] for value in finished[-_SHOWN:])
        raise NotFound(
            f"Attempt {origin.attempt} of task {origin.task_id} has no finished step {origin.step!r}",
            remedy=f"The last are {paths}" if paths else "It has none, or they were deleted",
            field="step",
        )
    if last is None or last.get("is_error"):
        raise Conflict(
            f"Step {origin.step} of task {origin.task_id} failed, and nothing goes on from there",
            remedy=f"Fork from a step before it: mesh task {origin.task_id} --steps lists them",
            field="step",
        )
    kept = [_copied(record) for record in steps if _belongs(record.value, path, last["number"])]
    kept = _without_open_decisions(kept)
    if kept and any("order" in record.value for record in records):
        kept[-1].value["order"] = _orders_up_to(last["number"], records, kept)
    return StepOrigin(path, kept)


def _step_numbers(records: Sequence[Record]) -> dict[str, int]:
    """The numbers of all steps in the records, also of those that failed, by path."""
    values = (record.value.get("failed") or record.value.get("again") or record.value for record in records)
    return {value["path"]: value["number"] for value in values if "kind" in value}


def _orders_up_to(number: int, records: Sequence[Record], kept: Sequence[Record]) -> dict[str, Any]:
    """The orders of results, by the prefixes of their scopes, for a fork that keeps some of the records."""
    paths = {record.value["path"] for record in kept}
    gone = {record.value["path"] for record in records if "kind" in record.value} - paths
    orders_up_to: dict[str, Any] = {}
    for prefix, order in Earlier((), (), (), "", continued=records).orders.items():
        begun = _branches_in(prefix, paths)
        steps = {path for path in paths if path.startswith(prefix)}
        orders_up_to[prefix] = order.up_to(number, begun, steps | begun - _branches_in(prefix, gone))
    return orders_up_to


def _branches_in(prefix: str, paths: Iterable[str]) -> set[str]:
    return {path[len(prefix) :].partition(".")[0] for path in paths if path.startswith(prefix)}


def _without_open_decisions(records: list[Record]) -> list[Record]:
    """The records without decisions on calls that the fork has not: it makes its own, and asks for them."""
    calls = [record.value for record in records if not is_approval(record) and "result" in record.value]
    return [record for record in records if not is_approval(record) or is_used(record.value["path"], calls)]


def _belongs(value: dict[str, Any], step: str, number: int) -> bool:
    path = value["path"]
    is_around = step.startswith(f"{path}.") and "intent" not in value
    return not is_around and (value["number"] <= number or path.startswith(f"{step}."))


def _copied(record: Record) -> Record:
    """A record as the fork has it: nothing in it is paid for, or counted, again."""
    value = {name: part for name, part in record.value.items() if name not in ("calls", "order")}
    value["kept"] = f"{record.stream}/{record.n}"
    return Record(record.ref, record.stream, record.n, value)


async def changes_before(runtime: Runtime, ref: ActorRef, attempts: Iterable[EndedAttempt]) -> list[str]:
    """The kinds of the steps that may have changed something in attempts that have ended."""
    kinds: list[str] = []
    for attempt in attempts:
        records, answers = await read_steps(runtime, ref._replace(type=attempt.agent_id), attempt.steps, 1)
        changing = changing_steps([*records, *answers])
        kinds += changing or ([f"attempt {attempt.attempt}"] if attempt.changed else [])
    return list(dict.fromkeys(kinds))
