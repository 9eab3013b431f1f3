"""Files of tools, models and outcomes: what the model sees, what the outcome carries, where it is kept."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from meshwright import Agent, Capability, File, Outcome, Run, TaskRequest, tool
from meshwright.core.encoding import encode
from meshwright.core.errors import InvalidInput, NotFound
from meshwright.mesh.orchestration.tasks import Tasks
from meshwright.models.port import ChatMessage, ModelReply, ModelRequest
from meshwright.testing import ManualClock, MeshUnderTest, ScriptedModel, mesh_for, tool_call
from tests.support.interrupted_mesh import Keeper, keeper, kept

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 8
SHOT = File(name="shot.png", data=PNG)
PART = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{base64.b64encode(PNG).decode()}"}}
DATA = base64.b64encode(PNG).decode()[:40]


def a_viewer(result: Any) -> type[Agent]:
    class Viewer(Agent):
        agent_id = "viewer"
        capabilities = (Capability("viewing"),)

        @tool(idempotent=True)
        async def look(self, number: int = 1) -> Any:
            """Look."""
            return result

    return Viewer


def painted(text: str = "Painted.", *files: File) -> ModelReply:
    return ModelReply(content=text, files=files or (SHOT,), model="painter")


def told(request: ModelRequest) -> ChatMessage:
    """The result of the last call, as a model sees it."""
    return [message for message in request.messages if message.role == "tool"][-1]


def contents(mesh: MeshUnderTest) -> str:
    """Whatever events say."""
    return "\n".join(encode(event.payload).decode() for event in mesh.events())


@pytest.mark.parametrize(
    ("result", "words"),
    [
        (SHOT, str(SHOT)),
        (["The screen:", SHOT], f"The screen:\n{SHOT}"),
        (("The screen:", SHOT), f"The screen:\n{SHOT}"),
        ({"width": 8, "shot": SHOT}, json.dumps({"width": 8, "shot": str(SHOT)})),
        ({"shots": [{"of": "a", "file": SHOT}]}, json.dumps({"shots": [{"of": "a", "file": str(SHOT)}]})),
    ],
)
async def test_a_picture_of_a_tool_is_shown_beside_its_words(result: Any, words: str) -> None:
    model = ScriptedModel(tool_call("look"), "I see.")
    async with mesh_for(a_viewer(result), model=model) as mesh:
        outcome = await mesh.ask("viewer", "Look.")
        [called] = mesh.events("tool.called").payloads
        assert DATA not in contents(mesh)
        [transcript] = await mesh.mesh.get(Tasks).transcripts(outcome.task_id)
        tool_step, model_step = (repr(transcript.view(path, max_chars=10**6)) for path in ("3", "4"))
    assert (told(model.requests[1]).content, told(model.requests[1]).parts) == (words, (PART,))
    assert outcome.files == (), "what a tool shows the model is no answer"
    assert called["ok"]
    assert "shot.png: image/png, 2,056 bytes" in tool_step and "shot.png" in model_step
    assert DATA not in tool_step + model_step


async def test_a_model_looks_at_pictures_documents_and_text_and_reads_of_other_files() -> None:
    given = [
        File(name="a.csv", data=b"a,b\npassword=hunter2hunter2"),
        File(name="b.pdf", data=b"%PDF-1"),
        File(name="c.zip", data=b"PK"),
        File(name="d.svg", data=b"<svg/>"),
        File(name="e.webp", url="https://example.org/e.webp"),
    ]
    model = ScriptedModel(tool_call("look"), "I see.")
    async with mesh_for(a_viewer(given), model=model) as mesh:
        await mesh.ask("viewer", "Look.")
    message = told(model.requests[1])
    assert message.content.splitlines() == list(map(str, given))
    text, document, remote = message.parts
    assert text["text"].startswith("a.csv:\na,b\n") and "hunter2" not in text["text"]
    assert document["file"]["filename"] == "b.pdf"
    assert remote == {"type": "image_url", "image_url": {"url": "https://example.org/e.webp"}}


async def test_pictures_that_are_too_large_are_the_tools_error() -> None:
    large = File(name="large.png", data=bytes(3_000_000))
    model = ScriptedModel(tool_call("look"), "I see nothing.")
    async with mesh_for(a_viewer(large), model=model) as mesh:
        assert (await mesh.ask("viewer", "Look.")).success
    said = told(model.requests[1]).content
    assert "look has files of 3,000,000 bytes, and 2,516,582 are allowed" in said
    assert "max_record_bytes" in said
    assert told(model.requests[1]).parts == ()


@pytest.mark.parametrize(
    "fields",
    [
        {"name": "a.png"},
        {"name": "a.png", "url": "file:///etc/passwd"},
        {"name": "a.png", "data": b"x", "url": "https://example.org/a.png"},
        {"name": "a.png", "url": "data:image/png;base64,!"},
    ],
)
def test_what_is_no_file_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match=r"a\.png"):
        File(**fields)


def test_a_file_is_the_same_as_json() -> None:
    file = File(name="../a\n.png", url=PART["image_url"]["url"])
    assert (file.name, file.media_type, file.data, file.url) == ("../a_.png", "image/png", PNG, "")
    assert File.model_validate(json.loads(file.model_dump_json())) == file
    assert File.model_validate(file.model_dump()) == file


async def test_old_pictures_are_left_out_when_the_window_fills() -> None:
    calls = [tool_call("look", number=number) for number in range(12)]
    model = ScriptedModel(*calls, "Seen.")
    async with mesh_for(a_viewer(["Here:", SHOT]), model=model, context={"window_tokens": 16_000}) as mesh:
        assert (await mesh.ask("viewer", "Look.")).text == "Seen."
        assert mesh.events("context.shortened")
    last = [message for message in model.requests[-1].messages if message.role == "tool"]
    assert [bool(message.parts) for message in last[-6:]] == [True] * 6
    assert not last[0].parts and last[0].content == f"Here:\n{SHOT} [files left out]"
    assert all(sum(bool(message.parts) for message in each.messages) <= 10 for each in model.requests)


async def test_what_a_model_gives_is_in_the_outcome_and_its_bytes_beside_it() -> None:
    model = ScriptedModel(painted("", SHOT, File(name="far.png", url="https://example.org/far.png")))
    async with mesh_for(a_viewer(""), model=model) as mesh:
        outcome = await mesh.ask("viewer", "Paint.")
        files = [await mesh.mesh.get(Tasks).file(outcome.task_id, number) for number in (1, 2)]
        with pytest.raises(NotFound, match=r"no file 3 of task .* which has 2"):
            await mesh.mesh.get(Tasks).file(outcome.task_id, 3)
        with pytest.raises(NotFound, match="no task"):
            await mesh.mesh.get(Tasks).file(outcome.task_id, 1, "another")
        assert DATA not in contents(mesh)
        [ended] = mesh.events("task.succeeded").payloads
    assert outcome.success, "an answer that is a picture alone is one"
    near, far = outcome.files
    assert (near.name, near.media_type, near.size) == ("shot.png", "image/png", len(PNG))
    assert near.url == f"/tasks/{outcome.task_id}/files/1"
    assert (far.size, far.url) == (None, "https://example.org/far.png")
    assert [file.data for file in files] == [PNG, b""]
    assert json.loads(encode(ended))["files"][0]["name"] == "shot.png"


class Maker(Agent):
    """Makes files."""

    agent_id = "maker"
    capabilities = (Capability("making"),)

    async def run(self, run: Run) -> Any:
        await run.attach(File(name="own.txt", data=b"own"))
        await run.ask("Paint.")
        if run.task.text == "large":
            await run.attach(File(name="large.bin", data=bytes(3_000_000)))
        if run.task.text == "wrong":
            return {"file": File(name="a.txt", data=b"a")}
        return f"{len(run.files)} files"


async def test_an_agent_attaches_files() -> None:
    model = ScriptedModel(painted(), painted(), painted())
    async with mesh_for(Maker, model=model) as mesh:
        outcome = await mesh.ask("maker", "Make.")
        large, wrong = await mesh.ask("maker", "large"), await mesh.ask("maker", "wrong")
        file = await mesh.mesh.get(Tasks).file(outcome.task_id, 1)
        [attached] = [event.payload for event in mesh.events("file.attached", task_id=outcome.task_id)]
    assert (outcome.text, [known.name for known in outcome.files]) == ("2 files", ["own.txt", "shot.png"])
    assert file == File(name="own.txt", data=b"own")
    assert json.loads(encode(attached))["size"] == 3
    assert large.error is not None and "run.attach has files of 3,000,000 bytes" in large.error.message
    assert len(large.files) == 2, "what was made before is not lost"
    assert wrong.error is not None and "run.attach" in wrong.error.message


async def test_a_reply_whose_pictures_no_record_holds_fails_the_task_and_is_paid_for() -> None:
    model = ScriptedModel(painted("", File(name="large.png", data=bytes(3_000_000))))
    async with mesh_for(a_viewer(""), model=model) as mesh:
        outcome = await mesh.ask("viewer", "Paint.")
        called = mesh.events("model.called")
    assert outcome.error is not None and outcome.error.type == "TooLarge"
    assert "The reply of painter has files of 3,000,000 bytes" in outcome.error.message
    assert (len(called), len(model.requests)) == (1, 1)


async def test_a_resumed_run_has_the_files_of_what_was_done(tmp_path: Path) -> None:
    async def run(self: Keeper, run: Run) -> str:
        async def make() -> None:
            await run.attach(File(name="within.txt", data=b"within"))

        await run.attach(File(name="own.txt", data=b"own"))
        await run.step("make", make)
        await run.ask("Paint.")
        return await run.converse()

    @tool(idempotent=True)
    async def look(self: Keeper) -> File:
        """Look."""
        return SHOT

    first, model = keeper(run=run, look=look), ScriptedModel(painted(), tool_call("look"), tool_call("hold"))
    async with kept(tmp_path, first, model=model) as mesh:
        task_id = (
            await mesh.get(Tasks).submit(TaskRequest(agent_id="keeper", payload={"text": "Go."}))
        ).task_id
        await first.began.wait()
    model = ScriptedModel(painted("Done.", File(name="last.png", data=b"last")))
    async with kept(tmp_path, keeper(opened=True, run=run, look=look), model=model) as mesh:
        outcome = await mesh.get(Tasks).outcome(task_id)
        datas = [(await mesh.get(Tasks).file(task_id, number)).data for number in (1, 2, 3, 4)]
    assert outcome.text == "Done."
    assert [file.name for file in outcome.files] == ["own.txt", "within.txt", "shot.png", "last.png"]
    assert datas == [b"own", b"within", PNG, b"last"]
    shown = [message.parts for message in model.requests[0].messages if message.role == "tool"]
    assert shown == [(PART,), ()], "a picture of before is shown again"


class Lead(Agent):
    """Has the maker work, and passes on what it made."""

    agent_id = "lead"
    capabilities = (Capability("leading"),)
    delegates_to = ("maker", "viewer")

    async def run(self, run: Run) -> str:
        if run.task.text == "by model":
            return await run.converse()
        outcome = await run.delegate("maker", "Make.", shape=Outcome)
        passed = await run.attach(outcome.files[1])
        assert passed == await run.read_file(outcome.files[1]) == SHOT
        return await run.delegate("viewer", "What is that?", payload={"files": [outcome.files[1]]})


async def test_a_parent_passes_on_the_files_of_its_children() -> None:
    model = ScriptedModel(painted(), "A picture.")
    async with mesh_for(Lead, Maker, a_viewer(""), model=model) as mesh:
        outcome = await mesh.ask("lead", "Go.")
        file = await mesh.mesh.get(Tasks).file(outcome.task_id, 1)
    assert (outcome.text, [known.name for known in outcome.files]) == ("A picture.", ["shot.png"])
    assert file == SHOT
    assert model.requests[-1].messages[-1].parts == (PART,)


async def test_a_model_that_delegates_sees_the_files_and_its_outcome_has_them() -> None:
    model = ScriptedModel()
    model.replies(tool_call("delegate", agent_id="maker", text="Make."), "There it is.", to="lead")
    model.replies(painted(), to="maker")
    async with mesh_for(Lead, Maker, a_viewer(""), model=model) as mesh:
        outcome = await mesh.ask("lead", "by model")
        file = await mesh.mesh.get(Tasks).file(outcome.task_id, 2)
    [_, last] = [request for request in model.requests if request.user == "lead"]
    assert PART in told(last).parts
    assert told(last).content.splitlines()[0] == "2 files"
    assert [known.name for known in outcome.files] == ["own.txt", "shot.png"]
    assert file == SHOT


async def test_files_of_children_that_no_record_holds_are_named_and_read_where_they_are() -> None:
    large = [File(name=f"{number}.png", data=bytes([number]) * 1_500_000) for number in range(3)]
    model = ScriptedModel()
    model.replies(tool_call("delegate", agent_id="viewer", text="Paint."), "There they are.", to="lead")
    model.replies(painted("", large[0]), to="viewer")
    viewer = a_viewer("")

    async def run(self: Agent, run: Run) -> str:
        for file in large[1:]:
            await run.attach(file)
        return await run.converse()

    viewer.run = run
    async with mesh_for(Lead, Maker, viewer, model=model) as mesh:
        outcome = await mesh.ask("lead", "by model")
        found = [await mesh.mesh.get(Tasks).file(outcome.task_id, number) for number in (1, 2, 3)]
        again = File(name="again.png", url=outcome.files[1].url)
    assert outcome.text == "There they are."
    assert {file.name: file.data for file in found} == {file.name: file.data for file in large}
    assert len(told(model.requests[-1]).parts) == 1, "one of them fits"
    assert again.url.startswith("/tasks/") and outcome.task_id not in again.url


async def test_a_task_may_name_a_file_of_another_task_of_its_tenant() -> None:
    model = ScriptedModel(painted(), "Seen.")
    async with mesh_for(a_viewer(""), model=model) as mesh:
        url = (await mesh.ask("viewer", "Paint.")).files[0].url
        payload = {"text": "Look.", "files": [{"url": url}, {"name": "a.txt", "data": "aGk="}]}
        receipt = await mesh.submit(agent_id="viewer", payload=payload)
        assert (await mesh.outcome(receipt.task_id)).success
        [transcript] = await mesh.mesh.get(Tasks).transcripts(receipt.task_id)
        assert "shot.png" in transcript.summary("1").summary and DATA not in transcript.summary("1").summary
        lost = [{"url": url.replace("files/1", "files/9")}]
        receipt = await mesh.submit(agent_id="viewer", payload={"text": "Look.", "files": lost})
        gone = await mesh.outcome(receipt.task_id)
    assert model.requests[1].messages[-1].parts == (PART, {"type": "text", "text": "a.txt:\nhi"})
    assert gone.error is not None and "no file 9" in gone.error.message


@pytest.mark.far("hours of a mesh pass")
async def test_the_contents_of_files_go_with_those_of_steps() -> None:
    clock = ManualClock()
    model = ScriptedModel(painted())
    async with mesh_for(a_viewer(""), model=model, clock=clock, keep_contents_days=0.01) as mesh:
        outcome = await mesh.ask("viewer", "Paint.")
        await mesh.advance(7_300)
        with pytest.raises(NotFound, match="deleted with what was said"):
            await mesh.mesh.get(Tasks).file(outcome.task_id, 1)
