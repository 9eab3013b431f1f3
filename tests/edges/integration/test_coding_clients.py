"""The wires of coding agents over HTTP, by the packages that their providers publish."""

import json
from pathlib import Path
from typing import Any

from meshwright.models.port import ModelReply, ToolCall
from meshwright.testing import ScriptedModel
from tests.support.model_api import service

PATCH: Any = {"type": "custom", "name": "apply_patch", "description": "Edits files."}
SEND: Any = {"type": "function", "name": "send", "parameters": {"type": "object", "properties": {}}}
MAIL: Any = {"type": "namespace", "name": "mail", "description": "Mails.", "tools": [SEND]}
CALLS = (
    ToolCall(id="c1", name="apply_patch", arguments=json.dumps({"input": "*** Begin"})),
    ToolCall(id="c2", name="mail__send", arguments="{}"),
)


async def test_a_response_calls_tools_of_codex_and_names_in_an_event_what_it_passes_over(
    tmp_path: Path,
) -> None:
    reply = ModelReply(model="m", content="I patch.", tool_calls=CALLS)
    tools: Any = [PATCH, MAIL, {"type": "web_search"}]
    async with service(tmp_path, answering=ScriptedModel(reply, "Done.")) as there, there.client() as client:
        async with client.responses.stream(
            model="fast",
            input="Patch it",
            tools=tools,
            store=False,
            include=["reasoning.encrypted_content"],
            extra_body={"client_metadata": {"thread": "t"}},
        ) as stream:
            kinds = [event.type async for event in stream]
            response = await stream.get_final_response()
        items: Any = [item.to_dict() for item in response.output]
        outputs: Any = [
            {"type": "custom_tool_call_output", "call_id": "c1", "output": "patched"},
            {"type": "function_call_output", "call_id": "c2", "output": "sent"},
        ]
        last = await client.responses.create(model="fast", input=[*items, *outputs], tools=tools)
        async with there.session.get("/events?event_type=model.called&limit=5") as answer:
            called = [event["payload"] for event in (await answer.json())["items"]]
    assert "response.custom_tool_call_input.done" in kinds
    assert [item.type for item in response.output] == ["message", "custom_tool_call", "function_call"]
    assert (response.output[1].to_dict()["input"], response.output[2].to_dict()["namespace"]) == (
        "*** Begin",
        "mail",
    )
    assert last.output_text == "Done."
    passed_over = [payload.get("passed_over") for payload in called]
    assert passed_over == [["client_metadata", "tools.web_search"], ["tools.web_search"]]
