"""Tools for those who design APIs: an OpenAPI document read, checked, and compared with an older one."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, NamedTuple

from pydantic import Field

from meshwright.agents.tools.tool import ToolContext, tool
from meshwright.agents.tools.toolset import Toolset
from meshwright.agents.tools.workspace import REVISION, GitTools
from meshwright.agents.trees.tree import Tree
from meshwright.core.errors import InvalidInput, ToolFailed
from meshwright.toolsets.yaml_text import Unreadable, read_yaml

_METHODS = ("get", "put", "post", "delete", "options", "head", "patch", "trace")
_CHANGING = ("put", "post", "delete", "patch")
_PARAMETER = re.compile(r"\{([^}]+)\}")
_MAX_REFERENCES = 20  # that lead from one to the next
_Fields = Mapping[str, Any]
_MAX_BYTES = 2_000_000
_MAX_DEPTH, _MAX_VALUES = 100, 500_000
_MAX_LISTED = 300


class SpecFinding(NamedTuple):
    """A place in a document, such as `GET /tasks`, and what is wrong there."""

    at: str
    problem: str


class Operation(NamedTuple):
    """An operation with its parameters, those of its path included."""

    method: str
    path: str
    fields: _Fields
    parameters: Mapping[tuple[str, str], _Fields]

    @property
    def name(self) -> str:
        """Its method and path."""
        return f"{self.method.upper()} {self.path}"

    @property
    def responses(self) -> _Fields:
        """Its responses by status."""
        return _fields(self.fields.get("responses"))


class OpenApi:
    """A document of OpenAPI 3. References lead into the document itself, or nowhere."""

    def __init__(self, document: _Fields) -> None:
        self.document = document
        self.components = _fields(document.get("components"))
        self.operations = list(self._operations())

    def resolve(self, value: Any) -> _Fields:
        """The target of a reference, or the value itself; empty where it leads nowhere."""
        for _ in range(_MAX_REFERENCES):
            reference = value.get("$ref") if isinstance(value, Mapping) else None
            if not isinstance(reference, str):
                return _fields(value)
            value = self.target(reference)
        return {}

    def target(self, reference: str) -> Any:
        """The value that a reference names; None where there is none."""
        value: Any = self.document
        if not reference.startswith("#/"):
            return None
        for part in reference[2:].split("/"):
            name = part.replace("~1", "/").replace("~0", "~")
            value = value.get(name) if isinstance(value, Mapping) else None
        return value

    def _operations(self) -> Iterator[Operation]:
        for path, item in _fields(self.document.get("paths")).items():
            item = self.resolve(item)
            for method in _METHODS:
                fields = item.get(method)
                if isinstance(fields, Mapping):
                    listed = [*_list(item.get("parameters")), *_list(fields.get("parameters"))]
                    resolved = [self.resolve(parameter) for parameter in listed]
                    keys = ((str(parameter.get("in")), str(parameter.get("name"))) for parameter in resolved)
                    yield Operation(method, str(path), fields, dict(zip(keys, resolved, strict=True)))

    def request_body(self, operation: Operation) -> tuple[bool, _Fields]:
        """Whether a request needs a body, and the schema of it."""
        body = self.resolve(operation.fields.get("requestBody"))
        return body.get("required") is True, self._schema(body)

    def response_schema(self, response: Any) -> _Fields:
        """The schema of a response."""
        return self._schema(self.resolve(response))

    def _schema(self, holder: _Fields) -> _Fields:
        content = _fields(holder.get("content"))
        media = content.get("application/json") or next(iter(content.values()), {})
        return _fields(_fields(media).get("schema"))

    # Faults of one document

    def findings(self) -> list[SpecFinding]:
        """All that is wrong, in the order of the document."""
        ids = Counter(str(operation.fields.get("operationId")) for operation in self.operations)
        findings = [finding for operation in self.operations for finding in self._wrong(operation, ids)]
        references = set(_references(self.document))
        dangling = sorted(name for name in references if self.target(name) is None)
        findings += [SpecFinding(name, "leads nowhere") for name in dangling]
        return [*findings, *(SpecFinding(name, "is used by no operation") for name in self._unused())]

    def _wrong(self, operation: Operation, ids: Mapping[str, int]) -> Iterator[SpecFinding]:
        name, fields, statuses = operation.name, operation.fields, set(map(str, operation.responses))
        operation_id = fields.get("operationId")
        if not operation_id:
            yield SpecFinding(name, "has no operationId")
        elif ids[str(operation_id)] > 1:
            yield SpecFinding(name, f"shares the operationId {operation_id!r} with another")
        if not any(status.startswith(("2", "3")) for status in statuses):
            yield SpecFinding(name, "has no response of success")
        if not any(status.startswith("4") or status == "default" for status in statuses):
            yield SpecFinding(name, "names no error: neither a 4xx nor a default response")
        in_path = set(_PARAMETER.findall(operation.path))
        declared = {parameter for place, parameter in operation.parameters if place == "path"}
        for parameter in sorted(in_path - declared):
            yield SpecFinding(name, f"does not declare {parameter!r} of its path")
        for parameter in sorted(declared - in_path):
            yield SpecFinding(name, f"declares {parameter!r}, which is not in its path")
        if "requestBody" in fields and not self.request_body(operation)[1]:
            yield SpecFinding(name, "takes a body without a schema")
        is_open = not fields.get("security", self.document.get("security"))
        if is_open and operation.method in _CHANGING and self.components.get("securitySchemes"):
            yield SpecFinding(name, "changes something and needs no credentials")

    def _unused(self) -> list[str]:
        """The schemas that no path leads to."""
        visited: set[str] = set()
        waiting = [*_references(self.document.get("paths")), *_references(self.document.get("webhooks"))]
        while waiting:
            reference = waiting.pop()
            if reference not in visited:
                visited.add(reference)
                waiting += _references(self.target(reference))
        names = (f"#/components/schemas/{name}" for name in _fields(self.components.get("schemas")))
        return [name for name in names if name not in visited]


def breaking_changes(old: OpenApi, new: OpenApi) -> list[SpecFinding]:
    """All by which clients of the old document may fail with the new one."""
    return list(_Comparison(old, new).findings())


class _Comparison:
    def __init__(self, old: OpenApi, new: OpenApi) -> None:
        self._old = old
        self._new = new
        self._compared: set[tuple[str, str, str]] = set()

    def findings(self) -> Iterator[SpecFinding]:
        now = {(operation.method, _shape(operation.path)): operation for operation in self._new.operations}
        for before in self._old.operations:
            after = now.get((before.method, _shape(before.path)))
            if after is None:
                yield SpecFinding(before.name, "is gone")
            else:
                yield from self._compare_operation(before, after)

    def _compare_operation(self, before: Operation, after: Operation) -> Iterator[SpecFinding]:
        name = before.name
        for key, parameter in after.parameters.items():
            place, title = key
            old_parameter = before.parameters.get(key)
            is_needed = parameter.get("required") is True and place != "path"
            if is_needed and (old_parameter is None or old_parameter.get("required") is not True):
                yield SpecFinding(name, f"needs the {place} parameter {title!r} now")
            if old_parameter is not None:
                schemas = old_parameter.get("schema"), parameter.get("schema")
                yield from self._compare_request(f"{name} parameter {title}", *schemas)
        was_needed, was = self._old.request_body(before)
        is_needed, now = self._new.request_body(after)
        if is_needed and not was_needed:
            yield SpecFinding(name, "needs a body now")
        if was and now:
            yield from self._compare_request(f"{name} body", was, now)
        for status, response in before.responses.items():
            if not str(status).startswith("2"):
                continue
            if status not in after.responses:
                yield SpecFinding(name, f"does not answer {status} any more")
                continue
            schemas = self._old.response_schema(response), self._new.response_schema(after.responses[status])
            yield from self._compare_response(f"{name} {status}", *schemas)

    def _compare_request(self, at: str, was: Any, now: Any) -> Iterator[SpecFinding]:
        """Changes of what clients send: less is taken, or more is needed."""
        if self._is_compared("request", was, now):
            return
        was, now = self._old.resolve(was), self._new.resolve(now)
        if removed_types := _types(was) - _types(now) if _types(now) else ():
            yield SpecFinding(at, f"takes no {' or '.join(sorted(removed_types))} any more")
        if removed_values := _values(was) - _values(now) if _values(now) else ():
            yield SpecFinding(at, f"takes no {', '.join(sorted(removed_values))} any more")
        for name in sorted(_required(now) - _required(was)):
            yield SpecFinding(at, f"needs {name!r} now")
        yield from self._below(at, was, now, self._compare_request)

    def _compare_response(self, at: str, was: Any, now: Any) -> Iterator[SpecFinding]:
        """Changes of what clients get: less is there, or other things are."""
        if self._is_compared("response", was, now):
            return
        was, now = self._old.resolve(was), self._new.resolve(now)
        if more := _types(now) - _types(was) if _types(was) else ():
            yield SpecFinding(at, f"may be {' or '.join(sorted(more))} now")
        if added := _values(now) - _values(was) if _values(was) else ():
            yield SpecFinding(at, f"may be {', '.join(sorted(added))} now")
        there = _fields(now.get("properties"))
        for name in _fields(was.get("properties")):
            if name not in there:
                yield SpecFinding(at, f"has no {name!r} any more")
            elif name in _required(was) and name not in _required(now):
                yield SpecFinding(at, f"may lack {name!r} now")
        yield from self._below(at, was, now, self._compare_response)

    def _is_compared(self, way: str, was: Any, now: Any) -> bool:
        """Whether two schemas that are referred to were compared before: each change is named once."""
        references = [value.get("$ref") if isinstance(value, Mapping) else None for value in (was, now)]
        key = (way, str(references[0]), str(references[1]))
        is_known = None not in references and key in self._compared
        self._compared.add(key)
        return is_known

    def _below(self, at: str, was: _Fields, now: _Fields, compare: Any) -> Iterator[SpecFinding]:
        properties = _fields(now.get("properties"))
        for name, schema in _fields(was.get("properties")).items():
            if name in properties:
                yield from compare(f"{at}.{name}", schema, properties[name])
        if was.get("items") and now.get("items"):
            yield from compare(f"{at}[]", was["items"], now["items"])


def _shape(path: str) -> str:
    """A path without the names of its parameters."""
    return _PARAMETER.sub("{}", path)


def _references(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        if isinstance(reference := value.get("$ref"), str):
            yield reference
        for inner in value.values():
            yield from _references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _references(inner)


def _types(schema: _Fields) -> set[str]:
    declared_type = schema.get("type")
    names = [declared_type] if isinstance(declared_type, str) else _list(declared_type)
    # An integer is a number as well, so that one may stand for the other where clients send it.
    types = {str(name) for name in names} | ({"integer"} if "number" in names else set())
    return types | ({"null"} if schema.get("nullable") is True else set())


def _values(schema: _Fields) -> set[str]:
    return {str(value) for value in _list(schema.get("enum"))}


def _required(schema: _Fields) -> set[str]:
    return {name for name in _list(schema.get("required")) if isinstance(name, str)}


def _fields(value: Any) -> _Fields:
    return value if isinstance(value, Mapping) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


class ApiTools(Toolset):
    """Reads the OpenAPI documents of the workspace."""

    @tool(idempotent=True, effect="read", origin="workspace")
    async def openapi(
        self,
        path: Annotated[str, Field(min_length=1, max_length=4_096)],
        context: ToolContext,
        against: Annotated[str, Field(pattern=rf"^({REVISION})?$", max_length=200)] = "",
        in_tree: bool = False,
    ) -> dict[str, Any]:
        """List the operations of an OpenAPI document and its faults: missing errors, unused schemas,
        references that lead nowhere; and what breaks clients of an earlier revision of it.

        Args:
            path: the document, YAML or JSON
            against: a revision of git to compare with, such as main or v1.2
            in_tree: read it from the tree of the task, and compare it with the state at its beginning
        """
        if in_tree and against:
            raise InvalidInput(
                "A tree is compared with its beginning", remedy="Leave it out", field="against"
            )
        if in_tree:
            return await self._read_tree(path, await context.tree())
        text = await asyncio.to_thread(self.settings.files.read, path, _MAX_BYTES)
        now = await asyncio.to_thread(_read, text, path)
        if not against:
            return _facts(now)
        text = await GitTools(self.settings).file_at(against, path, _MAX_BYTES)
        return _facts(now, await asyncio.to_thread(_read, text, f"{path} of {against}"))

    async def _read_tree(self, path: str, tree: Tree) -> dict[str, Any]:
        text = await asyncio.to_thread(tree.files.read, path, _MAX_BYTES)
        now = await asyncio.to_thread(_read, text, path)
        try:
            before = await tree.original(path, _MAX_BYTES)
        except ToolFailed:  # it is new
            return _facts(now)
        return _facts(now, await asyncio.to_thread(_read, before, f"{path} at the beginning"))


def _facts(now: OpenApi, was: OpenApi | None = None) -> dict[str, Any]:
    facts = {
        "title": _fields(now.document.get("info")).get("title"),
        "openapi": now.document.get("openapi"),
        "operations": [_summary(operation.name, operation.fields) for operation in now.operations],
        "findings": [f"{at} {problem}" for at, problem in now.findings()],
    }
    if was is not None:
        facts["breaking"] = [f"{at} {problem}" for at, problem in breaking_changes(was, now)]
    return {name: _cut(value) for name, value in facts.items()}


def _read(text: str, path: str) -> OpenApi:
    try:
        documents = read_yaml(text, max_depth=_MAX_DEPTH, max_values=_MAX_VALUES)
    except Unreadable as error:
        raise ToolFailed(f"{path} cannot be read: {error}") from error
    document = documents[0] if len(documents) == 1 else None
    if not isinstance(document, Mapping) or not str(document.get("openapi", "")).startswith("3."):
        remedy = "Name a document with `openapi: 3.x` in it"
        raise InvalidInput(f"{path} is no document of OpenAPI 3", remedy=remedy, field="path")
    return OpenApi(document)


def _summary(name: str, fields: Mapping[str, Any]) -> str:
    text = " ".join(str(fields.get("summary") or fields.get("operationId") or "").split())
    return f"{name}{' (deprecated)' if fields.get('deprecated') else ''}{f': {text[:100]}' if text else ''}"


def _cut(value: Any) -> Any:
    if not isinstance(value, list) or len(value) <= _MAX_LISTED:
        return value
    return [*value[:_MAX_LISTED], f"[cut: {len(value) - _MAX_LISTED:,} more]"]
