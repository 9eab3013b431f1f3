"""Files beside words: pictures, documents and sound that tools and models give, and that outcomes carry."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from mimetypes import guess_type

from msgspec.structs import force_setattr

from meshwright.core.encoding import Struct
from meshwright.core.errors import InvalidInput

_MAX_NAME_CHARS = 200
_UNKNOWN = "application/octet-stream"
_MEDIA_TYPE = re.compile(r"[A-Za-z0-9][\w.+-]*/[A-Za-z0-9][\w.+-]*", re.ASCII)
_NOT_IN_NAMES = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
_TASK_FILE = re.compile(r"/tasks/([A-Za-z0-9_-]{1,64})/files/([0-9]{1,6})")


class File(Struct, omit_defaults=True):
    """A picture, a document, sound, or any other file: its bytes, or its address.

        File(name="chart.png", data=png)

    JSON has the data in base64. Raises InvalidInput if it has neither data nor url, or both; an empty file is
    refused.
    """

    name: str
    """The file name, at most 200 characters."""
    media_type: str = ""
    """The media type, such as `image/png`. Default: by the name."""
    data: bytes = b""
    """The bytes. Empty if `url` says where they are."""
    url: str = ""
    """An address that begins with `https:` or `http:`, or `/tasks/{id}/files/{n}`, a file of an outcome. The
    content of a `data:` URL becomes `data`."""

    def __post_init__(self) -> None:
        name = _NOT_IN_NAMES.sub("_", self.name)[:_MAX_NAME_CHARS]
        media_type = self.media_type
        if self.url.startswith("data:"):
            media_type = media_type or self.url[5:].partition(",")[0].partition(";")[0]
            force_setattr(self, "data", _read_data_url(self.url, name))
            force_setattr(self, "url", "")
        is_elsewhere = self.url.startswith(("http:", "https:")) or parse_task_file(self.url) is not None
        if bool(self.data) == bool(self.url) or is_elsewhere != bool(self.url):
            raise InvalidInput(
                f"File {name!r} has {'data and a url' if self.data else 'neither data nor a url with https'}",
                remedy='Write File(name="chart.png", data=png_bytes), or url="https://..." in place of data',
                field="files",
            )
        media_type = media_type.partition(";")[0].strip().lower() or guess_type(name)[0] or _UNKNOWN
        force_setattr(self, "name", name or "file")
        force_setattr(self, "media_type", media_type if _MEDIA_TYPE.fullmatch(media_type) else _UNKNOWN)

    @property
    def size(self) -> int | None:
        """How many bytes it has; None if they are elsewhere."""
        return None if self.url else len(self.data)

    @property
    def data_url(self) -> str:
        """A `data:` URL of its bytes, or where it is."""
        if self.url:
            return self.url
        return f"data:{self.media_type};base64,{base64.b64encode(self.data).decode()}"

    @property
    def facts(self) -> dict[str, str | int | None]:
        """Its description without the content: `name`, `media_type`, `size`."""
        return {"name": self.name, "media_type": self.media_type, "size": self.size}

    def __str__(self) -> str:
        if self.url:
            return f"[file {self.name}: {self.media_type}, {self.url}]"
        digest = hashlib.sha256(self.data).hexdigest()[:12]
        return f"[file {self.name}: {self.media_type}, {len(self.data):,} bytes, sha256 {digest}]"


class TaskFile(Struct, omit_defaults=True, kw_only=True):
    """A file of an outcome. `url` is where it is: `/tasks/{id}/files/{n}` of the mesh, or elsewhere.

    `step` is the path of the step whose record has its bytes, `place` which of that step's files it is.
    """

    name: str
    media_type: str
    size: int | None = None
    url: str
    step: str = ""
    place: int = 0

    @property
    def file(self) -> File:
        """The file without its bytes: where it is."""
        return File(name=self.name, media_type=self.media_type, url=self.url)


def parse_task_file(url: str) -> tuple[str, int] | None:
    """The task and the number of the file that a path of the mesh names; None for any other URL."""
    match = _TASK_FILE.fullmatch(url)
    return (match[1], int(match[2])) if match else None


def _read_data_url(url: str, name: str) -> bytes:
    head, _, data = url.partition(",")
    try:
        if not head.endswith(";base64"):
            raise ValueError
        return base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError):
        raise InvalidInput(f"The data: URL of file {name!r} is no base64", field="files") from None
