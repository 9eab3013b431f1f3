"""Embeddings as OpenAI's clients ask for them: texts made vectors."""

from __future__ import annotations

import base64
from array import array
from collections.abc import AsyncGenerator, Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import to_json

from meshwright.core.capability import LLM_SERVICE
from meshwright.core.errors import MeshError
from meshwright.core.ids import Identifier
from meshwright.models.port import ModelReply, ModelRequest
from meshwright.models.wire.chat import provider_params
from meshwright.models.wire.errors import OPENAI_REQUEST_ID, invalid_body, openai_answer
from meshwright.models.wire.stream import StreamedCall

_Tokens = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]
_Texts = Annotated[list[str], Field(min_length=1, max_length=2048)]


class EmbeddingRequest(BaseModel):
    """Texts, or their tokens, to be made vectors."""

    model_config = ConfigDict(extra="allow")

    model: str = Field(min_length=1, max_length=128)
    input: str | _Texts | _Tokens | Annotated[list[_Tokens], Field(min_length=1, max_length=2048)]
    encoding_format: Literal["float", "base64"] | None = None
    user: Identifier | None = None
    tenant_id: Identifier | None = None


class EmbeddingCall:
    """Texts to be made vectors, and the answer with them. It has no id, and no pieces."""

    streams = False
    passed_over: tuple[str, ...] = ()

    def __init__(self, body: EmbeddingRequest) -> None:
        texts = body.input
        several: list[Any] = texts if isinstance(texts, list) and not isinstance(texts[0], int) else [texts]
        self.request = ModelRequest(
            model=body.model,
            messages=(),
            user=LLM_SERVICE,
            inputs=tuple(tuple(text) if isinstance(text, list) else text for text in several),
            params=provider_params(body.model_extra or {}),
            cache=False,
        )
        self._encoding = body.encoding_format

    def name(self, answer_id: str, created: int) -> None:
        """Do nothing: the answer has neither."""

    def whole(self, reply: ModelReply) -> dict[str, Any]:
        """The vectors, in the order of the texts."""
        used = reply.usage.prompt_tokens
        return {
            "object": "list",
            "data": [
                {"object": "embedding", "index": index, "embedding": self._written(vector)}
                for index, vector in enumerate(reply.embeddings)
            ],
            "model": reply.model,
            "usage": {"prompt_tokens": used, "total_tokens": used},
        }

    async def frames(self, call: StreamedCall) -> AsyncGenerator[bytes]:
        """The whole answer as one piece."""
        yield to_json(self.whole(await call.reply()))

    def _written(self, vector: tuple[float, ...]) -> Any:
        if self._encoding != "base64":
            return vector
        return base64.b64encode(array("f", vector).tobytes()).decode()  # little-endian on all that we run on


class _Embeddings:
    path = "/v1/embeddings"
    request_id_header = OPENAI_REQUEST_ID

    def read(self, body: Mapping[str, Any], headers: Mapping[str, str]) -> EmbeddingCall:
        """Reads a request. Raises InvalidInput with the field that is wrong."""
        try:
            return EmbeddingCall(EmbeddingRequest.model_validate(body))
        except ValidationError as error:
            raise invalid_body(error) from None

    def error(self, error: MeshError) -> tuple[int, dict[str, str], dict[str, Any]]:
        """Returns status, headers and document of an error."""
        return openai_answer(error)


EMBEDDINGS = _Embeddings()
