"""Steps of a framework's agent, whose paths nobody types, are named by their numbers."""

from pathlib import Path

from meshwright import Agent, Capability, Client, Run
from meshwright.mesh.orchestration.tasks import Tasks
from meshwright.testing import ScriptedModel
from tests.support.http_mesh import Api, http_mesh
from tests.support.running_mesh import mesh


class Framed(Agent):
    """Calls models by OpenAI's client, as a framework does."""

    agent_id = "framed"
    capabilities = (Capability("framing"),)
    remembers = False

    async def run(self, run: Run) -> str:
        words = []
        for text in ("One?", "Two?", "Three?"):
            reply = await run.openai().chat.completions.create(
                model="default", messages=[{"role": "user", "content": text}]
            )
            words.append(str(reply.choices[0].message.content))
        return " ".join(words)


async def said(api: Api, *words: str, status: int = 0) -> str:
    done = await mesh(*words, "--url", api.url)
    assert done.status == status, done
    return done.out + done.err


async def test_a_step_of_a_framework_is_shown_and_forked_by_its_number(tmp_path: Path) -> None:
    model = ScriptedModel("a", "b", "c", "B", "C")
    async with http_mesh(tmp_path, Framed, script=model) as api, Client(api.url) as client:
        task_id = await api.finished(agent_id="framed")
        [first, second, third] = await client.steps(task_id)
        assert not any(step.path.isdigit() for step in (first, second, third))
        header, *rows = (await said(api, "task", task_id, "--steps")).splitlines()
        assert header.split()[:2] == ["step", "number"]
        assert [row.split()[:2] for row in rows[:3]] == [
            [step.path, str(step.number)] for step in (first, second, third)
        ]
        shown = await said(api, "task", task_id, "--steps", str(second.number))
        assert f"{second.path} of attempt 1" in shown and "Two?" in shown
        assert "None" not in shown, "a call that sets no limit shows none"
        assert (await client.step(task_id, str(third.number))).path == third.path

        tried = await said(api, "retry", task_id, "--from", str(first.number), "--dry-run")
        assert f"after step {first.path} of" in tried and "with 1 finished step" in tried
        fork = await client.fork(task_id, str(first.number))
        assert fork.task_id is not None and fork.forked_from.step == first.path
        outcome = await api.mesh.get(Tasks).outcome(fork.task_id)
        assert outcome.text == "a B C"
        wrong = await said(api, "retry", task_id, "--from", "99", status=1)
    assert "has no finished step '99'" in wrong and third.path in wrong


class Plain(Agent):
    """Has steps with numbers for paths."""

    agent_id = "plain"
    capabilities = (Capability("answering"),)
    prompt_text = "Answer."
    remembers = False


async def test_steps_that_are_numbers_have_no_second_one(tmp_path: Path) -> None:
    async with http_mesh(tmp_path, Plain, script=ScriptedModel("Hello.")) as api, Client(api.url) as client:
        task_id = await api.finished(agent_id="plain")
        steps = await client.steps(task_id)
        assert [step.path for step in steps] == [str(step.number) for step in steps]
        header = (await said(api, "task", task_id, "--steps")).splitlines()[0]
    assert "number" not in header
