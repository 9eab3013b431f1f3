"""Requests of one conversation are written from what earlier calls wrote, and stay the same."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from pydantic_core import to_json

from meshwright.models.anthropic import AnthropicMessages
from meshwright.models.errors import Unsupported
from meshwright.models.http import Wire
from meshwright.models.openai import ChatCompletions, ProxyCompletions
from meshwright.models.port import CallContext, ChatMessage, ToolCall
from meshwright.models.usage import prompt_size
from meshwright.models.written import WrittenMessages
from tests.support.model_requests import request

IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBOR"}}
PDF = {"type": "file", "file": {"file_data": "data:application/pdf;base64,JVBE", "filename": "b.pdf"}}
TEXT = {"type": "text", "text": "a,b"}
MARKED = {"type": "text", "text": "marked", "cache_control": {"type": "ephemeral"}}
PARTS = ((), (), (IMAGE,), (TEXT,), (TEXT, PDF), (IMAGE, MARKED))
MODELS = ("", "gpt", "gemini", "claude")
FIRST, CACHED = {"location": "message", "role": "system"}, {"location": "message", "index": -2}
REFUSED = "Unrecognized field: reasoning_content is not supported", "cache_control is not permitted"


def wires() -> list[Wire]:
    return [
        ChatCompletions(model="gpt"),
        ChatCompletions(model="gemini"),
        ProxyCompletions(),
        AnthropicMessages(),
        AnthropicMessages(cached=[FIRST, CACHED]),
    ]


class Talk:
    """A conversation that goes on as it likes, with everything that a message may have."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._number = 0
        self.messages: list[ChatMessage] = []

    def turn(self) -> None:
        """Let it go on, or shorten it, or go back to an earlier message."""
        choose = self._random.choice
        match choose("userassistant"):
            case "u" if self.messages:
                del self.messages[self._random.randrange(len(self.messages)) :]
            case "e" if self.messages:
                through = self._random.randrange(len(self.messages))
                self.messages[:through] = [ChatMessage(role="user", content="Summary.")]
            case "r":
                self.messages.append(ChatMessage(role="system", content="Be kind.", parts=choose(PARTS)))
            case _:
                self.messages.append(
                    ChatMessage(role="user", content=choose(("", "Go on.")), parts=choose(PARTS))
                )
                self._answer()

    def _answer(self) -> None:
        choose = self._random.choice
        calls = tuple(self._call() for _ in range(choose((0, 1, 3))))
        extra = choose(({}, {"reasoning_content": "Hm.", "reasoning": "So."}))
        thinking = ({"type": "thinking", "thinking": "Hm.", "signature": "s"},)
        answer = ChatMessage(
            role="assistant",
            content=choose(("", "Yes.")),
            tool_calls=calls,
            thinking=choose(((), thinking)),
            extra=extra,
            answered_by=choose(MODELS),
        )
        results = [
            ChatMessage(role="tool", content=choose(("", "fine")), parts=choose(PARTS), tool_call_id=call.id)
            for call in calls
        ]
        self.messages += [answer, *results]

    def _call(self) -> ToolCall:
        self._number += 1
        arguments = self._random.choice(("", '{"n": 1}', "no json", "[1]"))
        extra = self._random.choice(({}, {"extra_content": {"signature": "s"}}))
        return ToolCall(id=f"c{self._number}", name="look", arguments=arguments, extra=extra)


def sent(wire: Wire, messages: Sequence[ChatMessage], kept: WrittenMessages | None) -> bytes:
    call = request(messages=tuple(messages), context=CallContext(written=kept))
    return to_json(wire.body(call, stream=True))


@pytest.mark.parametrize("seed", range(30))
def test_providers_that_take_turns_get_what_a_single_call_sends(seed: int) -> None:
    talk, kept, providers = Talk(seed), WrittenMessages(), wires()
    chance = random.Random(seed)
    for turn in range(40):
        talk.turn()
        for wire in chance.sample(providers, 2):
            for _ in range(chance.choice((1, 1, 2))):  # a retry
                assert sent(wire, talk.messages, kept) == sent(wire, talk.messages, None)
        call = request(messages=tuple(talk.messages), context=CallContext(written=kept))
        assert vars(prompt_size(call)) == vars(prompt_size(request(messages=tuple(talk.messages))))
        if turn == 20:
            assert all(providers[0].adapts_to(words) for words in REFUSED)


def test_a_part_that_a_provider_has_not_is_refused_at_each_call() -> None:
    sound = {"type": "input_audio", "input_audio": {"data": "UklG", "format": "wav"}}
    hear, kept = ChatMessage(role="user", content="Hear.", parts=(sound,)), WrittenMessages()
    messages = [ChatMessage(role="user", content="Hello.")]
    for _ in range(2):
        with pytest.raises(Unsupported, match="input_audio"):
            sent(AnthropicMessages(), [*messages, hear], kept)
    for wire in wires():
        assert sent(wire, messages, kept) == sent(wire, messages, None)
