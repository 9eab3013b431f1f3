"""The model that needs neither key nor network: it quotes what it is given, and says what it is."""

from __future__ import annotations

import asyncio
import json
import re
from bisect import bisect_right
from collections.abc import Callable, Collection
from decimal import Decimal

from meshwright.messages import Usage
from meshwright.models.config import LiteLLMConfig
from meshwright.models.offline.answering import answer
from meshwright.models.offline.filling import SchemaFiller
from meshwright.models.offline.planning import Call, next_call
from meshwright.models.offline.shortening import limit_in, shorten
from meshwright.models.offline.talk import Talk, read_talk
from meshwright.models.offline.words import stream_words
from meshwright.models.port import Model, ModelReply, ModelRequest, OnDelta, ToolCall
from meshwright.models.prices import Prices
from meshwright.models.schema import check_schema
from meshwright.money import Price

NAME = "offline"
COMPRESSION = "compression"
USUAL_GROUPS = frozenset({"default", "quality", "fast"})
MAX_INLINE_CHARACTERS = 16_000  # of a request; a larger one is read in a thread, beside the event loop
PIECE = re.compile(r"\w{1,6}|[^\w\s]")


def estimate_tokens(text: str) -> int:
    """Roughly how many tokens a text is."""
    return len(PIECE.findall(text))


class OfflineModel:
    """Deterministic and extractive: it calls the tools that fit the question, then answers in quotations.

    Takes time linear in the request, and answers only small requests on the event loop. Fills a JSON schema
    where one is given; with the tag `compression` it shortens the last message, keeping its sections. Its
    answers cost nothing and say `model: offline`; the same request gives the same reply.
    """

    kind = NAME
    config: LiteLLMConfig | None = None

    def __init__(self, *, count_tokens: Callable[[str], int] = estimate_tokens, why: str = "") -> None:
        self.name = f"{NAME} ({why})" if why else NAME
        self.count_tokens = count_tokens

    async def complete(self, request: ModelRequest, on_delta: OnDelta | None = None) -> ModelReply:
        """Answer. A stream comes in words. Raises InvalidSchema for a schema that it cannot fill."""
        if request.response_schema is not None or size_of(request) > MAX_INLINE_CHARACTERS:
            reply = await asyncio.to_thread(self.reply, request)
        else:
            reply = self.reply(request)
        if on_delta is not None:
            await stream_words(reply.content, on_delta)
        return reply

    async def close(self) -> None:
        """Nothing to give back."""

    def groups(self) -> frozenset[str]:
        """The usual ones; it answers any."""
        return USUAL_GROUPS

    def prices(self, default: Price | None) -> Prices:
        """Nothing."""
        return Prices.free()

    async def listed(self) -> None:
        """It has no server."""

    def alone(self, group: str | None, names: Collection[str]) -> tuple[Model, list[str]]:
        """Itself."""
        return self, [group or "default"]

    def reply(self, request: ModelRequest) -> ModelReply:
        """Answer at once."""
        if COMPRESSION in request.tags and not request.tools and request.response_schema is None:
            return self._made(request, self._shortened(request))
        talk = read_talk(request.messages)
        call = next_call(talk, request.tools)
        if call is not None:
            return self._calling(request, call, len(talk.results))
        if request.response_schema is not None:
            return self._made(request, filled_schema(request.response_schema, talk))
        return self._cut(request, answer(talk))

    def _shortened(self, request: ModelRequest) -> str:
        instructions = "\n".join(each.content for each in request.messages if each.role == "system")
        text = request.messages[-1].content if request.messages else ""
        body = text[start.start() :] if (start := re.search(r"^METADATA:", text, re.MULTILINE)) else text
        return shorten(body, limit_in(instructions, request.max_tokens), self.count_tokens)

    def _calling(self, request: ModelRequest, call: Call, number: int) -> ModelReply:
        arguments = json.dumps(call.arguments, ensure_ascii=False)
        tool_call = ToolCall(id=f"call_{number}", name=call.tool.name, arguments=arguments)
        return ModelReply(
            tool_calls=(tool_call,),
            model=NAME,
            usage=self._usage(request, arguments),
            cost_usd=Decimal(0),
            cost_source="priced",
            finish_reason="tool_calls",
        )

    def _cut(self, request: ModelRequest, content: str) -> ModelReply:
        if self.count_tokens(content) <= request.max_tokens:
            return self._made(request, content)
        end = bisect_right(
            range(len(content)), request.max_tokens, key=lambda end: self.count_tokens(content[:end])
        )
        return self._made(request, content[: max(end - 1, 0)].rpartition(" ")[0], "length")

    def _made(self, request: ModelRequest, content: str, finish_reason: str = "stop") -> ModelReply:
        usage = self._usage(request, content)
        return ModelReply(
            content=content,
            model=NAME,
            usage=usage,
            cost_usd=Decimal(0),
            cost_source="priced",
            finish_reason=finish_reason,
        )

    def _usage(self, request: ModelRequest, reply: str) -> Usage:
        prompt = sum(self.count_tokens(message.content) for message in request.messages)
        return Usage(prompt_tokens=prompt, completion_tokens=self.count_tokens(reply))


def size_of(request: ModelRequest) -> int:
    """About how many characters a request has."""
    said = sum(
        len(message.content) + sum(len(call.arguments) for call in message.tool_calls)
        for message in request.messages
    )
    return said + sum(len(tool.description) + len(str(tool.parameters)) for tool in request.tools)


def filled_schema(schema: dict[str, object], talk: Talk) -> str:
    """JSON text that fits the schema, from the material."""
    check_schema(schema, "response_format")
    texts = [passage.text for passage in talk.material]
    return json.dumps(SchemaFiller(schema, texts, talk.question).value(), ensure_ascii=False)
