"""Files of tasks: those that a model gets, and those that an outcome has.

The latter are what models gave, what agents it asked gave, and what the agent attached. They stay in the
records of the steps that made them; the outcome says where they are.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from mimetypes import guess_type
from typing import Any

from meshwright.agents.tools.limited_work import cut
from meshwright.agents.tools.tool import MAX_RESULT_CHARS
from meshwright.core.errors import Conflict, InvalidInput, NotFound, TooLarge
from meshwright.core.files import File, TaskFile, parse_task_file
from meshwright.core.messages import Task
from meshwright.core.redaction import redact
from meshwright.engine.kernel.envelope import ActorRef, Record
from meshwright.engine.kernel.runtime import Runtime
from meshwright.engine.work.earlier_records import read_forked, read_steps
from meshwright.engine.work.record import journal_names, read_task

_MAX_FILES = 16
_MAX_TEXT_CHARS = 100_000
_PARTS = ("text", "image_url", "file", "input_audio")
_SOUND = {"audio/wav": "wav", "audio/x-wav": "wav", "audio/mpeg": "mp3"}
_PICTURES = ("image/png", "image/jpeg", "image/gif", "image/webp")
_TEXTS = ("application/json", "application/yaml", "application/xml")
_EXAMPLE = 'Write {"url": "data:image/png;base64,..."}, or one with https, and "name" where it has one'


def payload_files(payload: Mapping[str, Any]) -> list[Any]:
    """The entries of `payload.files`; none where that field means something else."""
    files = payload.get("files")
    return files if isinstance(files, list) and any(isinstance(file, Mapping) for file in files) else []


def referred_in(payload: Mapping[str, Any]) -> list[str]:
    """The files of other tasks that a task names, by their `url`."""
    if "files" not in payload:
        return []
    urls = [str(file.get("url")) for file in payload_files(payload) if isinstance(file, Mapping)]
    return [url for url in dict.fromkeys(urls) if parse_task_file(url) is not None]


def file_parts(task: Task, referred: Mapping[str, File] | None = None) -> tuple[dict[str, Any], ...]:
    """The files of a task as parts of a message; `referred` are those of other tasks, by their `url`.

    Each is `{"url": ..., "name": ..., "media_type": ...}`, of which only `url` must be there (a `data:` URL,
    or an address that the provider fetches), one with `data` in base64 in place of `url`, or a part as OpenAI
    has it. Text is put in as text. Raises InvalidInput for anything else.
    """
    files = [_resolved(file, referred or {}) for file in payload_files(task.payload)]
    if len(files) > _MAX_FILES:
        raise InvalidInput(
            f"payload.files has {len(files)} files, and {_MAX_FILES} are allowed",
            remedy="Send fewer, or several tasks",
            field="payload.files",
        )
    return tuple(_file_part(number, file) for number, file in enumerate(files))


def parts_of_result(files: Sequence[File]) -> tuple[dict[str, Any], ...]:
    """The files of a tool's result that a model can look at: pictures, PDF documents and text, 16 of them.

    Other files it knows by the description in the words of the result.
    """
    return tuple(_parts_of_result(files))


def _parts_of_result(files: Sequence[File]) -> Iterator[dict[str, Any]]:
    for file in [file for file in files if parse_task_file(file.url) is None][:_MAX_FILES]:
        if file.media_type in _PICTURES:
            yield {"type": "image_url", "image_url": {"url": file.data_url}}
        elif file.data and file.media_type == "application/pdf":
            yield {"type": "file", "file": {"file_data": file.data_url, "filename": file.name}}
        elif file.data and _is_text(file.media_type):
            text = redact(cut(file.data.decode(errors="replace"), MAX_RESULT_CHARS))
            yield {"type": "text", "text": f"{file.name}:\n{text}"}


def _is_text(media_type: str) -> bool:
    return media_type.startswith("text/") or media_type in _TEXTS


def _resolved(file: Any, referred: Mapping[str, File]) -> Any:
    if not isinstance(file, Mapping):
        return file
    if (source := referred.get(str(file.get("url")))) is not None:
        return {"url": source.data_url, "name": source.name, "media_type": source.media_type}
    if isinstance(data := file.get("data"), str) and "url" not in file:
        kind = file.get("media_type") or guess_type(str(file.get("name")))[0] or ""
        return {**file, "url": f"data:{kind};base64,{data}"}
    return file


def _file_part(number: int, file: Any) -> dict[str, Any]:
    where = f"payload.files[{number}]"
    if isinstance(file, Mapping) and file.get("type") in _PARTS and file["type"] in file:
        return dict(file)
    url = file.get("url") if isinstance(file, Mapping) else None
    if not isinstance(url, str) or not url.startswith(("data:", "http://", "https://")):
        raise InvalidInput(f"{where} has no url of a file", remedy=_EXAMPLE, field=where)
    name = str(file.get("name") or "")
    head, _, data = url.partition(",")
    inline = head.startswith("data:")
    kind = head[5:].partition(";")[0] if inline else guess_type(url.partition("?")[0])[0]
    kind = str(file.get("media_type") or kind or guess_type(name)[0] or "")
    if kind.startswith("image/"):
        return {"type": "image_url", "image_url": {"url": url}}
    if not inline:
        return {"type": "file", "file": {"file_id": url, "filename": name or url.rpartition("/")[2]}}
    if not head.endswith(";base64"):
        raise InvalidInput(f"{where} is no base64", remedy=_EXAMPLE, field=where)
    if _is_text(kind):
        try:
            text = base64.b64decode(data, validate=True).decode(errors="replace")
        except binascii.Error:
            raise InvalidInput(f"{where} is no base64", remedy=_EXAMPLE, field=where) from None
        return {"type": "text", "text": f"{name or 'file'}:\n{cut(text, _MAX_TEXT_CHARS)}"}
    if kind in _SOUND:
        return {"type": "input_audio", "input_audio": {"data": data, "format": _SOUND[kind]}}
    return {"type": "file", "file": {"file_data": url, "filename": name or f"file-{number + 1}"}}


ATTACH = "attach"
"""The kind of the step in which an agent attaches a file."""
DELEGATE_TOOL = "delegate"
"""The tool by which a model asks another agent."""
_MAX_TASKS = 32  # that a file is looked for in; each names the next
_KINDS = (ATTACH, "model", f"tool {DELEGATE_TOOL}")
_DATA_SHARE = 0.6  # of a record are bytes of files: in base64 they are a third more, and others stand beside


class AttachedFiles:
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

    def task_files(self, task_id: str) -> tuple[TaskFile, ...]:
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
    entries = result.get("files") if isinstance(result, dict) else None
    try:
        return tuple(map(File.model_validate, entries)) if isinstance(entries, list) else ()
    except (ValueError, InvalidInput):  # an author's own step, which means something else by that name
        return ()


def without_data(result: Any) -> Any:
    """The result of a step, of its files only name, type and size."""
    if not (files := files_in(result)):
        return result
    return {**result, "files": [file.facts for file in files]}


def fitting(files: Iterable[tuple[File, File]], max_record_bytes: int) -> list[File]:
    """Of each pair the file with its bytes, or if there is no room for them, the other: where it is."""
    room, chosen = int(max_record_bytes * _DATA_SHARE), list[File]()
    for whole, place in files:
        fits = (whole.size or 0) <= room
        room -= (whole.size or 0) if fits else 0
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


async def read_file(runtime: Runtime, task_id: str, number: int, tenant_id: str) -> File:
    """A file of a task's outcome, counted from 1, also one that is of a task below. Raises NotFound."""
    for _ in range(_MAX_TASKS):
        file = await _read_file(runtime, task_id, number, tenant_id)
        if (place := parse_task_file(file.url)) is None:
            return file
        task_id, number = place
    raise NotFound(f"File {number} of task {task_id} is in no task", field="number")


async def _read_file(runtime: Runtime, task_id: str, number: int, tenant_id: str) -> File:
    record, task = await read_task(runtime, task_id, tenant_id)
    outcome = record.outcome
    if outcome is None or not 1 <= number <= len(outcome.files):
        has = "has not ended yet" if outcome is None else f"has {len(outcome.files)}"
        raise NotFound(
            f"There is no file {number} of task {task_id}, which {has}",
            remedy=f"mesh task {task_id} lists its files",
            field="number",
        )
    place = outcome.files[number - 1]
    ref = ActorRef(outcome.agent_id, f"{task.tenant_id}:{task.thread_id}")
    records: list[Record] = []
    with suppress(Conflict, NotFound):  # the steps that it was forked from were deleted
        records += await read_forked(runtime, task)
    for steps in journal_names(task_id, record.attempts, outcome.attempt):
        records += (await read_steps(runtime, ref, steps, 1))[0]  # the first claim may have left nothing
    for value in (record.value for record in records):
        if value.get("path") == place.step and place.place < len(files := files_in(value.get("result"))):
            return files[place.place]
    raise NotFound(
        f"File {number} of task {task_id} was deleted with what was said at its steps",
        remedy="keep_contents_days in mesh.toml says how long that is kept",
        field="number",
    )
