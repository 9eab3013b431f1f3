"""Embeddings as OpenAI's clients ask for them."""

from __future__ import annotations

import base64
from array import array
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from meshwright.core.capability import LLM_SERVICE
from meshwright.core.messages import Identifier
from meshwright.edges.http.chat import params_of
from meshwright.models.port import CallContext, ModelReply, ModelRequest

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


class EmbeddingList(BaseModel):
    """The vectors, in the order of the texts."""

    object: Literal["list"]
    data: list[dict[str, Any]]
    model: str
    usage: dict[Literal["prompt_tokens", "total_tokens"], int]


def embedding_request(asked: EmbeddingRequest, context: CallContext) -> ModelRequest:
    """Make the request that the mesh's model takes. Raises InvalidInput for what it cannot do."""
    given = asked.input
    several: list[Any] = given if isinstance(given, list) and not isinstance(given[0], int) else [given]
    return ModelRequest(
        model=asked.model,
        messages=(),
        user=context.agent_id or LLM_SERVICE,
        context=context,
        inputs=tuple(tuple(each) if isinstance(each, list) else each for each in several),
        params=params_of(asked.model_extra or {}),
        cache=False,
    )


def embedding_document(asked: EmbeddingRequest, reply: ModelReply) -> dict[str, Any]:
    """The vectors as OpenAI writes them."""
    used = reply.usage.prompt_tokens
    return {
        "object": "list",
        "data": [
            {"object": "embedding", "index": index, "embedding": _written(vector, asked.encoding_format)}
            for index, vector in enumerate(reply.embeddings)
        ],
        "model": reply.model,
        "usage": {"prompt_tokens": used, "total_tokens": used},
    }


def _written(vector: tuple[float, ...], encoding: str | None) -> Any:
    if encoding != "base64":
        return vector
    return base64.b64encode(array("f", vector).tobytes()).decode()  # little-endian on all that we run on
