"""The files of a task, `payload.files`, as the model gets them: pictures, documents, sound and text."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from mimetypes import guess_type
from typing import Any

from meshwright.core.errors import InvalidInput
from meshwright.core.messages import Task
from meshwright.tools.limited import cut

MAX_FILES = 16
_MAX_TEXT_CHARS = 100_000
_PARTS = ("text", "image_url", "file", "input_audio")
_SOUND = {"audio/wav": "wav", "audio/x-wav": "wav", "audio/mpeg": "mp3"}
_EXAMPLE = 'Write {"url": "data:image/png;base64,..."}, or one with https, and "name" where it has one'


def parts_of(task: Task) -> tuple[dict[str, Any], ...]:
    """The files of a task as parts of a message.

    Each is `{"url": ..., "name": ..., "media_type": ...}`, of which only `url` must be there (a `data:` URL,
    or an address that the provider fetches), or a part as OpenAI has it. Text is put in as text. Raises
    InvalidInput for anything else.
    """
    files = task.payload.get("files")
    if not isinstance(files, list) or not any(isinstance(each, Mapping) for each in files):
        return ()  # a field of that name which means something else: it is told as the others are
    if len(files) > MAX_FILES:
        raise InvalidInput(
            f"payload.files has {len(files)} files, and {MAX_FILES} are allowed",
            remedy="Send fewer, or several tasks",
            field="payload.files",
        )
    return tuple(_part_of(number, file) for number, file in enumerate(files))


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
    if kind.startswith("text/") or kind in ("application/json", "application/yaml", "application/xml"):
        try:
            text = base64.b64decode(data, validate=True).decode(errors="replace")
        except binascii.Error:
            raise InvalidInput(f"{where} is no base64", remedy=_EXAMPLE, field=where) from None
        return {"type": "text", "text": f"{name or 'file'}:\n{cut(text, _MAX_TEXT_CHARS)}"}
    if kind in _SOUND:
        return {"type": "input_audio", "input_audio": {"data": data, "format": _SOUND[kind]}}
    return {"type": "file", "file": {"file_data": url, "filename": name or f"file-{number + 1}"}}
