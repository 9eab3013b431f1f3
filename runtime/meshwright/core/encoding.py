"""Data that the mesh makes, stores and sends: structs, and JSON that never fails.

People's input is read with pydantic. A `Struct` is what the mesh makes of it: its constructor takes values as
they are, and reading one from JSON or plain data checks them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from decimal import Decimal
from functools import lru_cache
from itertools import repeat
from typing import Any, ClassVar, Literal, Self, dataclass_transform

import msgspec
from pydantic import BaseModel, ConfigDict, Field, create_model
from pydantic_core import PydanticSerializationError, core_schema, from_json, to_json

from meshwright.core.docstrings import describe_fields
from meshwright.core.errors import InvalidInput, TooLarge
from meshwright.core.money import ZERO

MAX_RECORD_BYTES = 4 * 1024 * 1024
"""How large a record may be as JSON where no setting says otherwise."""
MAX_DEPTH = 100  # of a payload that has to be mended
_AS_THEY_ARE = (datetime, Decimal)
"""Types that `model_dump` leaves as they are where they do not have to be JSON."""
_ANY_DIGIT = bytes.maketrans(b"23456789", b"1" * 8)
"""To find numbers of 1e16 and more, which pydantic writes as 1e+16."""
_TEXT = frozenset({str})
_PLAIN: set[type] = {str, int, float, bool, type(None), datetime}
"""Types that both encoders write alike; all structs that write themselves as they are belong to it."""


class Json(bytes):
    """A value as JSON, encoded once: what it was made of may change, and this does not."""

    __slots__ = ()


def _foreign(value: Any) -> Any:
    """The JSON of a value of a type that msgspec does not know."""
    if value is ZERO:
        return "0"
    if type(value) is Json:
        return msgspec.Raw(value)
    if isinstance(value, Decimal):
        return f"{value:f}"
    return from_json(to_json(value, inf_nan_mode="null"))


def _own(kind: Any, value: Any) -> Any:
    """A value of a type that msgspec does not know, from what JSON has for it."""
    if isinstance(value, kind):
        return value
    return kind.model_validate(value) if issubclass(kind, BaseModel) else kind(value)


def from_plain(kind: Any, value: Any, *, strict: bool = False) -> Any:
    """Plain data as a value of a type. Raises ValueError where it does not fit.

    A `strict` reading takes no text for a number.
    """
    try:
        return msgspec.convert(value, kind, strict=strict, dec_hook=_own)
    except msgspec.ValidationError as error:
        raise ValueError(str(error)) from error


write_struct = msgspec.json.Encoder(enc_hook=_foreign).encode
"""A struct as JSON."""


@lru_cache(maxsize=512)
def struct_reader(kind: Any, *, strict: bool = False) -> Any:
    """Returns what reads structs of a kind from JSON, raising ValueError where it does not fit."""
    return msgspec.json.Decoder(kind, strict=strict, dec_hook=_own).decode


def kept(*, default: Any) -> Any:
    """A default that JSON has too, in a struct that leaves out its other defaults (`omit_defaults`)."""
    return msgspec.field(default_factory=repeat(default).__next__)


_OPTIONS = {"frozen": True}
"""Named apart: a type checker lets no state be `frozen=False` below a base that it sees frozen."""


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(msgspec.field, kept))
class Struct(msgspec.Struct, **_OPTIONS):
    """Base of what the mesh makes, stores and sends. It reads and writes as pydantic's models do.

    Fields are given by name, and do not change. A field without a default needs `kw_only` behind fields with
    one.
    """

    schema_name: ClassVar[str] = ""  # in OpenAPI, where that is not the name of the class
    """Its name in OpenAPI. "": the name of the class."""

    def __init_subclass__(cls) -> None:
        if all("model_dump" not in vars(base) for base in cls.__mro__ if base is not Struct):
            _PLAIN.add(cls)

    @classmethod
    def model_validate(cls, value: Any) -> Self:
        """Read plain data. Raises ValueError where it does not fit."""
        if isinstance(value, cls):
            return value
        if isinstance(value, msgspec.Struct):
            value = msgspec.to_builtins(value, builtin_types=_AS_THEY_ARE, enc_hook=_foreign)
        return from_plain(cls, value)

    @classmethod
    def model_validate_json(cls, data: bytes | str) -> Self:
        """Read JSON. Raises ValueError where it is none, or does not fit."""
        try:
            return struct_reader(cls)(data)
        except (msgspec.DecodeError, RecursionError) as error:
            raise ValueError(str(error)) from error

    def model_dump(self, *, mode: Literal["json", "python"] = "python") -> dict[str, Any]:
        """Its fields as plain data, for `json` as JSON has them."""
        if mode == "json":
            return from_json(write_struct(self))
        return msgspec.to_builtins(self, builtin_types=_AS_THEY_ARE, enc_hook=_foreign)

    def model_dump_json(self) -> str:
        """It as JSON."""
        return write_struct(self).decode()

    def model_copy(self, *, update: Mapping[str, Any] | None = None) -> Self:
        """A copy with some fields changed."""
        return msgspec.structs.replace(self, **(update or {}))

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        """Lets pydantic's models have it as a field, and describe it as one of their own."""

        def read(value: Any, check: Any) -> Any:
            return value if isinstance(value, cls) else cls.model_validate(dict(check(value)))

        return core_schema.no_info_wrap_validator_function(
            read,
            handler(_pydantic_model(cls)),
            serialization=core_schema.plain_serializer_function_ser_schema(
                lambda value, info: value.model_dump(mode=info.mode), info_arg=True
            ),
        )


class View(Struct):
    """Base of what clients read. Its JSON schema allows other fields: a later version may have more."""


def _plain_default(default: Any) -> Any:
    if isinstance(default, Decimal):
        return Decimal(default)
    return default.model_dump(mode="json") if isinstance(default, Struct) else default


@lru_cache(maxsize=512)
def _pydantic_model(kind: type[Struct]) -> type[BaseModel]:
    fields: dict[str, Any] = {}
    for field in msgspec.structs.fields(kind):
        default: Any = ...
        if field.default is msgspec.UNSET:
            continue
        if field.default is not msgspec.NODEFAULT:
            default = _plain_default(field.default)
        elif field.default_factory is not msgspec.NODEFAULT:
            default = Field(default_factory=field.default_factory)
        fields[field.encode_name] = (field.type, default)
    name = vars(kind).get("schema_name", kind.__name__)
    config = ConfigDict(json_schema_extra=lambda schema: describe_fields(schema, kind))
    if issubclass(kind, View):
        config["extra"] = "allow"
    return create_model(name, __config__=config, __doc__=kind.__doc__, __module__=kind.__module__, **fields)


def as_json(source: object, value: Any) -> Json:
    """A value as JSON. Raises InvalidInput where what `source` sends is no JSON and cannot become it."""
    if type(value) is Json:
        return value
    try:
        if isinstance(value, Struct):
            return Json(write_struct(value))
        if (data := _encode_plain(value)) is not None:
            return Json(data)
        value = from_json(value) if isinstance(value, bytes) else value
        return Json(to_json(value, inf_nan_mode="null", fallback=plain))
    except (PydanticSerializationError, ValueError, TypeError, OverflowError, RecursionError) as error:
        raise InvalidInput(f"{source} sends what cannot be written as JSON: {error}") from error


def stable_json(value: Any) -> bytes:
    """A value as JSON whose bytes are the same in every version: what hashes are made of."""
    data = write_struct(value) if isinstance(value, Struct) else _encode_plain(value)
    if data is None or b"e1" in data.translate(_ANY_DIGIT):
        return to_json(value, fallback=plain)
    return data


def own_json(source: object, value: Any) -> Json:
    """`as_json` of what the mesh itself has made of plain data, without a look at what it holds."""
    try:
        return Json(write_struct(value))
    except (ValueError, TypeError, OverflowError, RecursionError):
        return as_json(source, value)


def _encode_plain(value: Any) -> bytes | None:
    """A flat object as JSON, which msgspec writes as pydantic does, at half the cost; None for all else."""
    if type(value) is not dict or not (
        _TEXT.issuperset(map(type, value)) and _PLAIN.issuperset(map(type, value.values()))
    ):
        return None
    try:
        return write_struct(value)
    except ValueError:  # half of a character
        return None


def plain(value: Any) -> Any:
    """A struct as plain data: what pydantic writes for a value that it does not know."""
    if isinstance(value, Struct):
        return value.model_dump()
    raise TypeError(f"{type(value).__name__} is no JSON")


def too_large(what: str, size: int, max_bytes: int) -> TooLarge:
    """The error of a record that has more bytes than it may."""
    return TooLarge(
        f"{what} has {size:,} bytes, and {max_bytes:,} are allowed",
        remedy="store less, or a reference instead, or raise max_record_bytes",
    )


def encode(payload: Any) -> bytes:
    """A value as JSON. Never fails: what JSON cannot hold is replaced by something that says so."""
    if type(payload) is Json:
        return payload
    try:
        if isinstance(payload, Struct):
            return write_struct(payload)
        if (data := _encode_plain(payload)) is not None:
            return data
        return to_json(payload, inf_nan_mode="null", serialize_unknown=True, fallback=_plain_or_text)
    except Exception:  # noqa: BLE001 - whatever a foreign object raises, the rest must be kept
        return to_json(_mended(payload, ()))


def _plain_or_text(value: Any) -> Any:
    return value.model_dump() if isinstance(value, Struct) else str(value)


def decode(data: bytes) -> Any:
    """Read `encode` back as plain data; JSON nested too deep to read is given as its text."""
    try:
        return from_json(data)
    except ValueError:
        return data.decode(errors="replace")


def is_deeper(values: Iterable[Any], levels: int) -> bool:
    """Whether containers among some values are nested deeper than that. No depth can overflow the stack."""
    containers = [value for value in values if isinstance(value, (dict, list, tuple))]
    while containers:
        if levels <= 0:
            return True
        levels -= 1
        containers = [
            inner
            for value in containers
            for inner in (value.values() if isinstance(value, dict) else value)
            if isinstance(inner, (dict, list, tuple))
        ]
    return False


def _mended(value: Any, above: tuple[int, ...]) -> Any:
    """The same value without halves of characters, bytes that are no text, circles and foreign objects."""
    if isinstance(value, str):
        return value.encode(errors="replace").decode()
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if id(value) in above or len(above) == MAX_DEPTH:
        return "<circular>" if id(value) in above else "<nested too deep>"
    inside = (*above, id(value))
    if isinstance(value, BaseModel):
        value = dict(value)
    if isinstance(value, Struct):
        value = msgspec.structs.asdict(value)
    if isinstance(value, Mapping):
        return {_mended(str(key), ()): _mended(item, inside) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_mended(item, inside) for item in value]
    return _leaf(value)


def _leaf(value: Any) -> Any:
    try:
        return from_json(to_json(value, inf_nan_mode="null"))
    except Exception:  # noqa: BLE001 - as above: only its type can be kept
        return f"<{type(value).__name__}>"


def with_integers(value: Any) -> Any:
    """Data with whole numbers as integers, for protocols that have doubles alone: SDKs send 1 as 1.0."""
    if isinstance(value, dict):
        return {name: with_integers(item) for name, item in value.items()}
    if isinstance(value, list):
        return [with_integers(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < 2**53 else value
