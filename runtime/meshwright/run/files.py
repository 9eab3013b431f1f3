"""Files as the model gets them: those of a task, `payload.files`, and those that tools give."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Mapping, Sequence
from mimetypes import guess_type
from typing import Any

from meshwright.core.errors import InvalidInput
from meshwright.core.files import File, task_file_of
from meshwright.core.messages import Task
from meshwright.core.redaction import redact
from meshwright.tools.limited import MAX_RESULT_CHARS, cut

MAX_FILES = 16
_MAX_TEXT_CHARS = 100_000
_PARTS = ("text", "image_url", "file", "input_audio")
_SOUND = {"audio/wav": "wav", "audio/x-wav": "wav", "audio/mpeg": "mp3"}
_PICTURES = ("image/png", "image/jpeg", "image/gif", "image/webp")
_TEXTS = ("application/json", "application/yaml", "application/xml")
_EXAMPLE = 'Write {"url": "data:image/png;base64,..."}, or one with https, and "name" where it has one'


def files_of(payload: Mapping[str, Any]) -> list[Any]:
    """What a task has in `payload.files`; nothing where that field means something else."""
    files = payload.get("files")
    return files if isinstance(files, list) and any(isinstance(each, Mapping) for each in files) else []


def referred_in(payload: Mapping[str, Any]) -> list[str]:
    """The files of other tasks that a task names, by their `url`."""
    urls = [str(file.get("url")) for file in files_of(payload) if isinstance(file, Mapping)]
    return [url for url in dict.fromkeys(urls) if task_file_of(url) is not None]


def parts_of(task: Task, referred: Mapping[str, File] | None = None) -> tuple[dict[str, Any], ...]:
    """The files of a task as parts of a message; `referred` are those of other tasks, by their `url`.

    Each is `{"url": ..., "name": ..., "media_type": ...}`, of which only `url` must be there (a `data:` URL,
    or an address that the provider fetches), one with `data` in base64 in place of `url`, or a part as OpenAI
    has it. Text is put in as text. Raises InvalidInput for anything else.
    """
    files = [_resolved(file, referred or {}) for file in files_of(task.payload)]
    if len(files) > MAX_FILES:
        raise InvalidInput(
            f"payload.files has {len(files)} files, and {MAX_FILES} are allowed",
            remedy="Send fewer, or several tasks",
            field="payload.files",
        )
    return tuple(_part_of(number, file) for number, file in enumerate(files))


def parts_of_result(files: Sequence[File]) -> tuple[dict[str, Any], ...]:
    """What a model looks at of the files that a tool gave: pictures, PDF documents and text, 16 of them.

    Other files it knows by the description in the words of the result.
    """
    return tuple(_parts_of_result(files))


def _parts_of_result(files: Sequence[File]) -> Iterator[dict[str, Any]]:
    for file in [file for file in files if task_file_of(file.url) is None][:MAX_FILES]:
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
    if (known := referred.get(str(file.get("url")))) is not None:
        return {"url": known.data_url, "name": known.name, "media_type": known.media_type}
    if isinstance(data := file.get("data"), str) and "url" not in file:
        kind = file.get("media_type") or guess_type(str(file.get("name")))[0] or ""
        return {**file, "url": f"data:{kind};base64,{data}"}
    return file


def _part_of(number: int, file: Any) -> dict[str, Any]:
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
