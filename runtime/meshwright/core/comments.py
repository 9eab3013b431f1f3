"""The hidden last line of comments that a mesh writes: an answer to one would be answered again.

It has a digest of the text above it. So a person who quotes such a comment, or writes into a copy of it, is
told apart from the mesh.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

MARKER = "<!-- meshwright:"
"""How the line begins."""
_LINE = re.compile(r"<!-- meshwright:[^<>]{1,200}?(?: text=([0-9a-f]{12}))? -->")
_DIGEST_CHARS = 12
_ROOTS = frozenset(["repos", "projects"])  # of paths of GitHub's and GitLab's API
_FOLDERS = frozenset(["comments", "discussions", "notes", "replies", "reviews"])
_TOOL = re.compile(r"comment|discussion|note|reply|review|thread", re.IGNORECASE)
_PLACES = frozenset(
    ["owner", "repo", "repository", "projectid", "iid", "issueiid", "mergerequestiid", "workitemiid"]
)
"""The arguments, in small letters alone, by which tools of MCP servers name a place on a forge."""


def mark_comment(text: str, by: str = "tool") -> str:
    """Returns the text of a comment with the hidden line, by which the webhooks of a mesh know it.

    A tool that comments on an issue or a pull request sends its text so: the comment then starts no task.
    """
    if is_marked(text):
        return text
    plain = text.replace(MARKER, "<!-- ").rstrip()
    return f"{plain}\n\n{MARKER}{by} text={_digest(plain)} -->"


def is_marked(text: str, *, is_edited: bool = False) -> bool:
    """Whether a mesh wrote a comment, or, where it `is_edited`, whether it wrote what was there before."""
    above, _, last = text.rstrip().rpartition("\n")
    line = _LINE.fullmatch(last.strip())
    return line is not None and (is_edited or line[1] in (None, _digest(above)))


def mark_request(method: str, url: str, body: Any) -> Any:
    """Returns the body of a request, marked where it makes a comment by the API of GitHub or GitLab."""
    path = urlsplit(url).path.split("/")
    comments = not _ROOTS.isdisjoint(path) and not _FOLDERS.isdisjoint(path)
    return _marked(body) if method in ("POST", "PUT", "PATCH") and comments else body


def mark_arguments(tool: str, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns the arguments of a tool of an MCP server, marked where it comments on GitHub or GitLab."""
    names = {name.replace("_", "").lower() for name in arguments}
    comments = _TOOL.search(tool) and not _PLACES.isdisjoint(names)
    return _marked(arguments) if comments else arguments


def _marked(fields: Any) -> Any:
    """Fields with a marked text, where they have one. An empty one is an approval without a comment."""
    text = fields.get("body") if isinstance(fields, Mapping) else None
    return {**fields, "body": mark_comment(text)} if isinstance(text, str) and text.strip() else fields


def _digest(text: str) -> str:
    """Of all but white space, which forges change."""
    return hashlib.sha256("".join(text.split()).encode(errors="replace")).hexdigest()[:_DIGEST_CHARS]
