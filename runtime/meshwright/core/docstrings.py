"""The docstrings below the fields of a class, as descriptions of its JSON schema."""

from __future__ import annotations

import inspect
from itertools import pairwise
from textwrap import dedent
from typing import Any


def field_docstrings(kind: type) -> dict[str, str]:
    """Returns the docstrings of the fields of a class of ours and of its bases, by their sources."""
    import ast  # for a schema alone, which few processes write

    texts: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        if not base.__module__.startswith("meshwright."):
            continue
        try:
            (tree,) = ast.parse(dedent(inspect.getsource(base))).body
        except OSError:  # a class that code makes
            continue
        for field, text in pairwise(getattr(tree, "body", ())):
            match field, text:
                case (
                    ast.AnnAssign(target=ast.Name(id=name)),
                    ast.Expr(value=ast.Constant(value=str(docstring))),
                ):
                    texts[name] = " ".join(docstring.split())
    return texts


def describe_fields(schema: dict[str, Any], kind: type) -> None:
    """Add the docstrings of a class to the properties of its JSON schema that have no description."""
    for name, text in field_docstrings(kind).items():
        if name in schema.get("properties", {}):
            schema["properties"][name].setdefault("description", text)
