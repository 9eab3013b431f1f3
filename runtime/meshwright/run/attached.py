"""The files of a task's outcome: what its models gave, what agents it asked gave, what its agent attached.

They stay in the records of the steps that made them; the outcome says where they are.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from meshwright.core.errors import InvalidInput, NotFound, TooLarge
from meshwright.core.files import File, TaskFile, task_file_of
from meshwright.kernel.envelope import ActorRef
from meshwright.kernel.runtime import Runtime
from meshwright.work.earlier import read_steps
from meshwright.work.protocol import steps_stream
from meshwright.work.reading import read_task

ATTACH = "attach"
"""The kind of the step in which an agent attaches a file."""
DELEGATE_TOOL = "delegate"
"""The tool by which a model asks another agent."""
_MAX_TASKS = 32  # that a file is looked for in; each names the next
_KINDS = (ATTACH, "model", f"tool {DELEGATE_TOOL}")
_DATA_SHARE = 0.6  # of a record are bytes of files: in base64 they are a third more, and others stand beside


class Attached:
    """The files that the outcome of a run has so far; `records` are those of earlier claims."""

    def __init__(self, records: Iterable[Mapping[str, Any]]) -> None:
        self._files: dict[str, tuple[File, ...]] = {}
        for record in records:
            if record.get("kind") in _KINDS and "path" in record:
                self.add(record["path"], files_in(record.get("result")))

    def add(self, path: str, files: Sequence[File]) -> None:
        """Add the files of a step."""
        if files:
            self._files[path] = tuple(files)

    @property
    def files(self) -> tuple[File, ...]:
        """All of them."""
        return tuple(file for files in self._files.values() for file in files)

    def of_task(self, task_id: str) -> tuple[TaskFile, ...]:
        """All of them as an outcome has them."""
        places = [(path, n, file) for path, files in self._files.items() for n, file in enumerate(files)]
        return tuple(
            TaskFile(
                name=file.name,
                media_type=file.media_type,
                size=file.size,
                url=file.url or f"/tasks/{task_id}/files/{number}",
                step=path,
                place=n,
            )
            for number, (path, n, file) in enumerate(places, start=1)
        )


def files_in(result: Any) -> tuple[File, ...]:
    """The files that the result of a step holds."""
    found = result.get("files") if isinstance(result, dict) else None
    try:
        return tuple(map(File.model_validate, found)) if isinstance(found, list) else ()
    except (ValueError, InvalidInput):  # an author's own step, which means something else by that name
        return ()


def without_data(result: Any) -> Any:
    """The result of a step, of its files only name, type and size."""
    if not (files := files_in(result)):
        return result
    return {**result, "files": [file.facts for file in files]}


def fitting(files: Iterable[tuple[File, File]], max_record_bytes: int) -> list[File]:
    """Of each pair the file with its bytes, or if there is no room for them, the other: where it is."""
    left, chosen = int(max_record_bytes * _DATA_SHARE), list[File]()
    for whole, place in files:
        fits = (whole.size or 0) <= left
        left -= (whole.size or 0) if fits else 0
        chosen.append(whole if fits else place)
    return chosen


def check_size(what: str, files: Iterable[File], max_record_bytes: int) -> None:
    """Raise TooLarge for files that one step has no room for."""
    size, most = sum(file.size or 0 for file in files), int(max_record_bytes * _DATA_SHARE)
    if size > most:
        raise TooLarge(
            f"{what} has files of {size:,} bytes, and {most:,} are allowed",
            remedy="Give smaller ones, or a url in place of data, or raise max_record_bytes in mesh.toml",
            field="files",
        )


async def read_file(host: Runtime, task_id: str, number: int, tenant_id: str) -> File:
    """A file of a task's outcome, counted from 1, also one that is of a task below. Raises NotFound."""
    for _ in range(_MAX_TASKS):
        file = await _read_file(host, task_id, number, tenant_id)
        if (place := task_file_of(file.url)) is None:
            return file
        task_id, number = place
    raise NotFound(f"File {number} of task {task_id} is in no task", field="number")


async def _read_file(host: Runtime, task_id: str, number: int, tenant_id: str) -> File:
    record, task = await read_task(host, task_id, tenant_id)
    outcome = record.outcome
    if outcome is None or not 1 <= number <= len(outcome.files):
        has = "has not ended yet" if outcome is None else f"has {len(outcome.files)}"
        raise NotFound(
            f"There is no file {number} of task {task_id}, which {has}",
            remedy=f"mesh task {task_id} lists its files",
            field="number",
        )
    known = outcome.files[number - 1]
    ref = ActorRef(outcome.agent_id, f"{task.tenant_id}:{task.thread_id}")
    stream = steps_stream(task_id, outcome.generation, outcome.attempt)
    records, _ = await read_steps(host, ref, stream, 1)  # the first claim may have left nothing
    for value in (record.value for record in records):
        if value.get("path") == known.step and known.place < len(files := files_in(value.get("result"))):
            return files[known.place]
    raise NotFound(
        f"File {number} of task {task_id} was deleted with what was said at its steps",
        remedy="keep_contents_days in mesh.toml says how long that is kept",
        field="number",
    )
