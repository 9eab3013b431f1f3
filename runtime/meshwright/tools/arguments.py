"""The arguments of a tool: from its type hints the JSON schema, and from a model's JSON the values."""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from meshwright.errors import InvalidInput, TooLarge
from meshwright.models.structure import WithoutTitles, repaired

MAX_ARGUMENTS_CHARS = 65_536
MAX_ERRORS_TOLD = 5


class Arguments:
    """Reads what a model wrote as the arguments of one tool; `schema` is the JSON schema it was shown."""

    def __init__(
        self,
        tool: str,
        parameters: Mapping[str, inspect.Parameter],
        hints: Mapping[str, Any],
        meanings: Mapping[str, str],
    ) -> None:
        fields: dict[str, Any] = {
            # Numbered, because a parameter's name may be one that a model's attribute has.
            f"argument_{number}": (hints[name], _field(parameter, meanings.get(name)))
            for number, (name, parameter) in enumerate(parameters.items())
        }
        config = ConfigDict(extra="forbid", allow_inf_nan=False)
        self.tool = tool
        self.names = list(parameters)
        self._model: type[BaseModel] = create_model("Arguments", __config__=config, **fields)
        self.schema = self._model.model_json_schema(schema_generator=WithoutTitles)
        self.schema.pop("title")

    def read(self, text: str) -> dict[str, Any]:
        """Check JSON text strictly, and return the value of each parameter, defaults included.

        What is nearly JSON and can mean one thing alone is read as that: see `repaired`.

        Raises InvalidInput for text that is not JSON, an unknown or missing parameter, a wrong type;
        TooLarge for too much of it.
        """
        if len(text) > MAX_ARGUMENTS_CHARS:
            raise TooLarge(
                f"{self.tool} was not run: its arguments have {len(text):,} characters",
                remedy=f"stay below {MAX_ARGUMENTS_CHARS:,}",
                field="arguments",
            )
        # Some servers send an empty text for a tool that takes nothing.
        if not text and not self.names:
            return {}
        try:
            values = self._model.model_validate_json(repaired(text), strict=True)
        except ValidationError as error:
            raise self._misfit(error) from error
        return {name: getattr(values, f"argument_{number}") for number, name in enumerate(self.names)}

    def _misfit(self, error: ValidationError) -> InvalidInput:
        errors = error.errors(include_input=False, include_url=False)
        places = [".".join(map(str, each["loc"])) or "arguments" for each in errors]
        told = [f"{place}: {each['msg']}" for place, each in zip(places, errors, strict=True)]
        return InvalidInput(
            f"{self.tool} was not run: {'; '.join(told[:MAX_ERRORS_TOLD])}",
            remedy=f"send one JSON object with: {', '.join(self.names) or 'nothing in it'}",
            field=places[0],
        )


def read_docstring(docstring: str) -> tuple[str, dict[str, str]]:
    """Split a docstring into what the tool does and, from its `Args:` section, what each parameter means."""
    text, *sections = re.split(r"^(Args|Returns|Raises):[ \t]*$", inspect.cleandoc(docstring), flags=re.M)
    meanings: dict[str, str] = {}
    name = ""
    for head, body in zip(sections[::2], sections[1::2], strict=True):
        for line in textwrap.dedent(body).splitlines() if head == "Args" else ():
            begins = re.match(r"(\w+)[^:]*:(.*)", line)
            name, line = begins.groups() if begins else (name, line)
            meanings[name] = f"{meanings.get(name, '')} {line.strip()}".strip()
    meanings.pop("", None)
    return text.strip(), meanings


def _field(parameter: inspect.Parameter, meaning: str | None) -> Any:
    default = ... if parameter.default is parameter.empty else parameter.default
    # A description of None would hide the one of an `Annotated[..., Field(description=...)]`.
    described: dict[str, Any] = {"description": meaning} if meaning else {}
    return Field(default, alias=parameter.name, **described)
