"""What is wrong with a field, in words for people rather than pydantic's."""

from __future__ import annotations

from typing import Any

_SENTENCES = {
    "missing": "this field is required",
    "extra_forbidden": "there is no such field",
    "string_type": "must be text",
    "string_too_short": "must have at least {min_length} characters",
    "string_too_long": "must have at most {max_length} characters",
    "too_short": "must have at least {min_length} items",
    "too_long": "must have at most {max_length} items",
    "list_type": "must be a list",
    "dict_type": "must be an object",
    "model_type": "must be an object",
    "model_attributes_type": "must be an object",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "finite_number": "must be a finite number",
    "greater_than": "must be greater than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "literal_error": "must be {expected}",
}
_PATTERNS = {
    r"^[A-Za-z0-9_-]{1,64}$": "may use letters, digits, - and _, at most 64",
    r"^[0-9]{1,18}$": "must be a number",
}


def sentence(error: Any) -> str:
    """Returns what is wrong with a field, from one of the `errors()` of a ValidationError."""
    known = error.get("ctx") or {}
    if error["type"] == "string_pattern_mismatch" and known.get("pattern") in _PATTERNS:
        return _PATTERNS[known["pattern"]]
    text = _SENTENCES.get(error["type"])
    if text is None:
        return str(error["msg"]).removeprefix("Value error, ")
    return text.format(**known)
