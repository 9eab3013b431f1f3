"""Forms for the answers to questions, as protocols have them whose forms are of plain fields."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from meshwright.core.errors import InvalidInput

_FIELD_TYPES = frozenset({"string", "number", "integer", "boolean"})
_FIELD_KEYS = frozenset(
    {
        "type",
        "title",
        "description",
        "enum",
        "default",
        "format",
        "minimum",
        "maximum",
        "minLength",
        "maxLength",
    }
)
_VALUE = "value"
"""The field of a form for an answer that is no object of plain fields."""


class Form(NamedTuple):
    """A form for the answer to a question. It has plain fields alone; others are asked for as text."""

    schema: dict[str, Any]
    """The schema of the form."""
    is_wrapped: bool
    """Whether the answer is the field `value` of the form, and not the form itself."""
    is_json: bool = False
    """Whether that field is text that has the answer as JSON."""

    @classmethod
    def from_schema(cls, answer_schema: Mapping[str, Any] | None) -> Form:
        """Makes the form for answers of a JSON schema."""
        schema = answer_schema or {"type": "string"}
        if schema.get("type") == "object":
            properties = schema.get("properties") or {}
            fields = {name: field for name, part in properties.items() if (field := _plain_field(part))}
            required = [name for name in schema.get("required") or () if name in properties]
            if fields and all(name in fields for name in required):
                return cls({"type": "object", "properties": fields, "required": required}, is_wrapped=False)
        field, is_json = _plain_field(schema), False
        if field is None:
            field, is_json = {"type": "string", "description": f"JSON that fits {json.dumps(schema)}"}, True
        form = {"type": "object", "properties": {_VALUE: field}, "required": [_VALUE]}
        return cls(form, is_wrapped=True, is_json=is_json)

    def answer(self, content: Mapping[str, Any]) -> Any:
        """Returns the answer that a filled form has. Raises InvalidInput for text that is no JSON."""
        if not self.is_wrapped:
            return dict(content)
        value = content.get(_VALUE)
        if not self.is_json:
            return value
        try:
            return json.loads(str(value))
        except ValueError as error:
            raise InvalidInput(f"The field {_VALUE} is no JSON: {error}", field=_VALUE) from None


def _plain_field(schema: Any) -> dict[str, Any] | None:
    """A field of a form; None for what no form can have."""
    if not isinstance(schema, Mapping):
        return None
    choices = [part for part in schema.get("anyOf") or () if part != {"type": "null"}]
    if len(choices) == 1 and isinstance(choices[0], Mapping):  # an optional one
        schema = {**choices[0], **{name: schema[name] for name in ("title", "description") if name in schema}}
    if schema.get("type") not in _FIELD_TYPES or not isinstance(schema.get("enum", []), list):
        return None
    return {name: value for name, value in schema.items() if name in _FIELD_KEYS and value is not None}
