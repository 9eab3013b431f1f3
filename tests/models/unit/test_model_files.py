"""Pictures and files on the wires of models: those that tools show, and those that models give."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from meshwright.core.files import File
from meshwright.models.anthropic import AnthropicMessages
from meshwright.models.errors import ModelUnavailable
from meshwright.models.openai import ChatCompletions
from meshwright.models.port import ChatMessage, ModelReply, ToolCall
from meshwright.models.server import HttpModel
from tests.support.fake_provider import FakeProvider
from tests.support.model_requests import KEY, request

DATA = base64.b64encode(b"\x89PNG picture").decode()
URL = f"data:image/png;base64,{DATA}"
IMAGE = {"type": "image_url", "image_url": {"url": URL}}
PDF = {"type": "file", "file": {"file_data": "data:application/pdf;base64,JVBE", "filename": "b.pdf"}}
TEXT = {"type": "text", "text": "a.csv:\na,b"}


def conversation() -> tuple[ChatMessage, ...]:
    """Two calls of tools with files, and what the user says then."""
    calls = (ToolCall(id="c1", name="look"), ToolCall(id="c2", name="read"))
    return (
        ChatMessage(role="user", content="Look."),
        ChatMessage(role="assistant", tool_calls=calls),
        ChatMessage(role="tool", content="shot", parts=(IMAGE, TEXT), tool_call_id="c1"),
        ChatMessage(role="tool", content="document", parts=(PDF,), tool_call_id="c2"),
        ChatMessage(role="user", content="Well?"),
    )


@pytest.mark.parametrize("said", [0, 1])
def test_openai_gets_files_of_tools_as_the_users_right_after_all_results(said: int) -> None:
    messages = conversation()[: 4 + said]
    body = ChatCompletions().body(request(messages=messages), stream=False)
    roles = [message["role"] for message in body["messages"]]
    assert roles == ["user", "assistant", "tool", "tool", "user", "user"][: 5 + said]
    _, _, first, second, files, *_ = body["messages"]
    assert first["content"] == [{"type": "text", "text": "shot"}, TEXT]
    assert second["content"] == "document"
    heads = [{"type": "text", "text": f"Files of the result of tool call {name}:"} for name in ("c1", "c2")]
    assert files["content"] == [heads[0], IMAGE, heads[1], PDF]


def test_anthropic_gets_files_of_tools_within_their_results() -> None:
    body = AnthropicMessages().body(request(messages=conversation()), stream=False)
    first, second = [block for block in body["messages"][2]["content"] if block["type"] == "tool_result"]
    source = {"type": "base64", "media_type": "image/png", "data": DATA}
    assert first["content"][1] == {"type": "image", "source": source}
    assert second["content"][1]["type"] == "document"


PICTURE = ("image-1.png", "image/png", b"\x89PNG picture", "")
SOUND = {"id": "audio_1", "data": base64.b64encode(b"RIFF").decode(), "transcript": "Hello."}


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(
    ("message", "files", "content"),
    [
        ({"content": "Here.", "images": [IMAGE]}, [PICTURE], "Here."),
        ({"content": None, "images": [{**IMAGE, "image_url": URL}]}, [PICTURE], ""),
        (
            {"content": "", "images": [{"type": "image_url", "image_url": {"url": "https://example.org/a"}}]},
            [("image-1.png", "image/png", b"", "https://example.org/a")],
            "",
        ),
        ({"content": None, "audio": SOUND}, [("audio-1.mp3", "audio/mpeg", b"RIFF", "")], "Hello."),
    ],
)
async def test_pictures_and_sound_of_a_reply_are_read(
    message: dict[str, Any], files: list[tuple[Any, ...]], content: str, streamed: bool
) -> None:
    if streamed and "audio" in message:
        pieces = [
            {"id": "audio_1", "transcript": "Hel"},
            {"data": "Ukk="},
            {"data": "RkY=", "transcript": "lo."},
        ]
        message = {"content": None, "audio_pieces": pieces}
    async with FakeProvider() as fake:
        fake.replies.append(message)
        model = HttpModel(fake.url, KEY)
        asked = request(
            params={"modalities": ["text", "audio"], "audio": {"voice": "alloy", "format": "mp3"}}
        )
        reply = await model.complete(asked, (lambda text: None) if streamed else None)
        await model.close()
        assert fake.calls[0].body["modalities"] == ["text", "audio"]
    assert [(file.name, file.media_type, file.data, file.url) for file in reply.files] == files
    assert reply.content == content
    assert ModelReply.model_validate_json(reply.model_dump_json()).files == reply.files


def test_pictures_among_the_parts_of_a_reply_are_read() -> None:
    body = {"choices": [{"message": {"content": [{"type": "text", "text": "Here."}, IMAGE]}}]}
    reply = ChatCompletions().read(body, request(), "test", {})
    assert (reply.content, reply.files) == ("Here.", (File(name="image-1.png", url=URL),))


def test_a_picture_that_is_none_is_no_completion() -> None:
    body = {"choices": [{"message": {"content": "", "images": [{"image_url": {"url": "data:image/png,x"}}]}}]}
    with pytest.raises(ModelUnavailable):
        ChatCompletions().read(body, request(), "test", {})
