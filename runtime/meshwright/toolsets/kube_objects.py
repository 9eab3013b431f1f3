"""Objects of Kubernetes as data: manifests as models write them, fields that are hidden, and differences."""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from meshwright.core.errors import InvalidInput
from meshwright.core.redaction import NAMES_A_SECRET
from meshwright.toolsets.yaml_text import Unreadable, read_yaml

HIDDEN, _NEW = "[hidden]", "[hidden, new]"
_BY_THE_SERVER = "[set by the server]"
_MAX_OBJECTS = 20
_LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
_VOLATILE = ("creationTimestamp", "generation", "resourceVersion", "selfLink", "uid")
"""Fields of metadata that the cluster sets."""


def read_manifest(text: str) -> list[dict[str, Any]]:
    """The objects of a manifest, YAML or JSON, one document each. Raises InvalidInput.

    They are handed on as JSON, so that no second reader can understand the text in another way.
    """
    try:
        documents = [found for found in read_yaml(text) if found is not None]
    except Unreadable as error:
        raise _wrong(f"cannot be read: {error}", "Write YAML, or JSON") from error
    if not 1 <= len(documents) <= _MAX_OBJECTS:
        raise _wrong(f"has {len(documents)} objects", f"Write 1 to {_MAX_OBJECTS}, with --- between them")
    if any(mark in text for mark in (HIDDEN, _NEW, _BY_THE_SERVER)):
        raise _wrong("has a text in place of a value", "Leave out what you were not shown")
    return [_checked(document) for document in documents]


def _checked(document: Any) -> dict[str, Any]:
    metadata = document.get("metadata") if isinstance(document, dict) else None
    if not isinstance(metadata, dict):
        raise _wrong("has a document that is no object", "Give each apiVersion, kind and metadata")
    named = (document.get("apiVersion"), document.get("kind"), metadata.get("name"))
    if not all(isinstance(value, str) and value for value in named):
        remedy = "Give each apiVersion, kind and metadata.name"
        raise _wrong("has an object without a name, a kind or an apiVersion", remedy)
    if not isinstance(metadata.get("namespace", ""), str):
        raise _wrong("has a namespace that is no text", "Name one that is allowed")
    try:
        return json.loads(json.dumps(document, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise _wrong(f"holds what JSON does not: {error}", "Write texts, numbers, lists, objects") from error


def _wrong(problem: str, remedy: str) -> InvalidInput:
    return InvalidInput(f"The manifest {problem}", remedy=remedy, field="manifest")


def shown(found: Mapping[str, Any]) -> dict[str, Any]:
    """An object, or a list of them, without the data of Secrets and the server's bookkeeping."""
    if isinstance(found.get("items"), list):
        return {**found, "items": [shown(item) for item in found["items"]]}
    metadata = {name: value for name, value in _metadata(found).items() if name != "managedFields"}
    if annotations := metadata.get("annotations"):
        kept = {name: value for name, value in annotations.items() if name != _LAST_APPLIED}
        metadata["annotations"] = kept
    secret: dict[str, Any] = {}
    if found.get("kind") == "Secret":
        secret = {
            name: dict.fromkeys(found[name], HIDDEN) for name in ("data", "stringData") if found.get(name)
        }
    return {**found, "metadata": metadata, **secret}


def with_secrets(value: Any, text: Callable[[str], str]) -> Any:
    """Data in which each variable of a container that is named like a secret has the `text` of its value."""
    if isinstance(value, list):
        return [with_secrets(item, text) for item in value]
    if not isinstance(value, Mapping):
        return value
    name, secret = value.get("name"), value.get("value")
    is_secret = isinstance(name, str) and isinstance(secret, str) and NAMES_A_SECRET.search(name)
    inner = {key: with_secrets(field, text) for key, field in value.items()}
    return {**inner, "value": text(secret)} if is_secret and secret else inner


def hidden_difference(name: str, before: Mapping[str, Any] | None, after: Mapping[str, Any]) -> str:
    """The difference of two states without their secrets; of those in `after` it says which are new."""
    known: set[str] = set()

    def of_before(secret: str) -> str:
        known.add(secret)
        return HIDDEN

    shown_before = with_secrets(before, of_before)
    return difference(name, shown_before, with_secrets(after, lambda it: HIDDEN if it in known else _NEW))


def wanted_state(found: Mapping[str, Any]) -> dict[str, Any]:
    """An object without its status, and without what the server counts and names."""
    whole = shown(found)
    metadata = {name: value for name, value in whole["metadata"].items() if name not in _VOLATILE}
    return {**{name: value for name, value in whole.items() if name != "status"}, "metadata": metadata}


def steady(first: Any, second: Any) -> Any:
    """The common part of two answers to one question: values that the server makes anew are marked."""
    if isinstance(first, dict) and isinstance(second, dict):
        return {name: steady(value, second.get(name)) for name, value in first.items()}
    if isinstance(first, list) and isinstance(second, list) and len(first) == len(second):
        return [steady(*pair) for pair in zip(first, second, strict=True)]
    return first if first == second else _BY_THE_SERVER


def difference(name: str, before: Mapping[str, Any] | None, after: Mapping[str, Any]) -> str:
    """A unified diff of two states of an object, as YAML; empty where they are the same."""
    lines = difflib.unified_diff(
        _lines(before), _lines(after), f"{name} (now)", f"{name} (then)", lineterm="", n=4
    )
    return "\n".join(lines)


def _lines(state: Mapping[str, Any] | None) -> list[str]:
    import yaml

    return yaml.safe_dump(dict(state), width=10_000).splitlines() if state else []


def digest(state: Mapping[str, Any] | None) -> str:
    """A short hash of a state; that of an object that is not there is `none`."""
    text = json.dumps(state, sort_keys=True).encode()
    return hashlib.sha256(text).hexdigest()[:16] if state else "none"


def list_of(objects: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Objects as one, as kubectl reads them from a file."""
    return {"apiVersion": "v1", "kind": "List", "items": objects}


def items_of(answer: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The objects of an answer: those of a list, or the one that it is."""
    if not answer:
        return []
    items = answer.get("items")
    return list(items) if isinstance(items, list) else [dict(answer)]


def place_of(found: Mapping[str, Any]) -> tuple[str, str, str, str]:
    """The group, kind, namespace and name of an object, which tell it from every other."""
    metadata = _metadata(found)
    group = str(found.get("apiVersion", "")).rpartition("/")[0]
    return group, str(found.get("kind")), str(metadata.get("namespace", "")), str(metadata.get("name"))


def by_place(found: Iterable[Mapping[str, Any]]) -> dict[tuple[str, str, str, str], Mapping[str, Any]]:
    """Objects by what tells them apart."""
    return {place_of(item): item for item in found}


def _metadata(found: Mapping[str, Any]) -> dict[str, Any]:
    return dict(found.get("metadata") or {})
