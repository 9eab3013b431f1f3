"""One answer for many questions: of one kind, of what is seen whole, and never of a step in doubt."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from meshwright.core.errors import Conflict
from tests.support.doubtful_mesh import KEY, Deployer, Payer, doubtful_mesh
from tests.support.running_mesh import mesh

YES = {"approve": True}


async def test_one_answer_for_many_repeats_no_step_in_doubt(tmp_path: Path) -> None:
    async with doubtful_mesh(tmp_path) as doubtful:
        client = doubtful.api.client
        [doubt] = await client.inbox()
        for dry_run in (True, False):
            [answered] = await client.answer_all(YES, everything=True, dry_run=dry_run)
            assert answered.refused is not None and "may be repeated" in answered.refused.message
        url = ("--url", doubtful.api.url)
        for named in (["--all", "--yes"], [doubt.id, doubt.id]):
            done = await mesh("approve", *named, *url)
            assert (done.status, "which is checked for each" in done.err) == (1, True)
        assert Payer.paid == ["paid"]
        assert (await mesh("approve", doubt.id, *url)).status == 0  # by itself
        await doubtful.ends(doubtful.task_id)
    assert Payer.paid == ["paid", "paid"]


async def test_several_kinds_are_not_answered_at_once(tmp_path: Path) -> None:
    async with doubtful_mesh(tmp_path) as doubtful:
        client, url = doubtful.api.client, ("--url", doubtful.api.url)
        tasks = [await doubtful.asks("deploy", version="1"), await doubtful.asks("notify", who="ann")]
        with pytest.raises(Conflict, match="3 kinds"):
            await client.answer_all(YES, everything=True)
        ids = [question.id for question in await client.inbox()]
        doubtful.script.replies("done")
        done = await mesh("approve", "-", "--json", *url, stdin="\n".join(ids))
        refused = [
            item["refused"] and item["refused"]["message"].split(",")[0] for item in json.loads(done.out)
        ]
        assert refused == [
            "It asks whether a step may be repeated",
            None,
            "It is of the kind 'deployer: approval notify'",
        ]
        await doubtful.ends(tasks[0])
    assert (Payer.paid, Deployer.done) == (["paid"], ["deploy 1"])


async def test_a_call_that_is_not_shown_whole_is_approved_by_itself(tmp_path: Path) -> None:
    async with doubtful_mesh(tmp_path) as doubtful:
        client = doubtful.api.client
        tasks = [
            await doubtful.asks("deploy", version="1"),
            await doubtful.asks("deploy", version="2", note=f"with {KEY}"),
        ]
        doubtful.script.replies("done")
        kind = "deployer: approval deploy"
        first, second = await client.answer_all(YES, kind=kind)
        assert first.refused is None and second.refused is not None
        assert "Not all of it is shown. Hidden here: 36 characters in 1 line." in second.refused.message
        await doubtful.ends(tasks[0])
        doubtful.script.replies("done")
        [denied] = await client.answer_all({"approve": False, "reason": "no"}, kind=kind)
        assert denied.refused is None
        await doubtful.ends(tasks[1])
    assert Deployer.done == ["deploy 1"]


async def test_the_command_lists_what_its_answer_does(tmp_path: Path) -> None:
    async with doubtful_mesh(tmp_path) as doubtful:
        await doubtful.asks("deploy", version="1")
        url = ("--url", doubtful.api.url)
        done = await mesh("approve", "--kind", "deployer: approval deploy", *url)
        assert done.status == 2 and "1 question is answered. Add --yes to confirm" in done.err
        assert '  deployer wants to run deploy(version="1", note="")' in done.err
    assert Deployer.done == []
