"""Evidence: the diff of a job is applied to a fresh copy, and its tests run there in the sandbox, by code."""

from __future__ import annotations

import asyncio
import os
import subprocess
from pathlib import Path

from benchmarks.coding.job import CodingJob, tree_settings
from meshwright.agents.sandbox.port import Limits, SandboxResult
from meshwright.agents.trees.tree import Tree
from tests.support.repositories import tree_of

_LIMITS = Limits(seconds=300.0)


async def proved(job: CodingJob, diff: str, folder: Path) -> SandboxResult:
    """Run the tests on a repository with the changes of a diff; its tests are as they were.

    `folder` is a new one. Raises CalledProcessError for a diff that does not fit.
    """
    source = await asyncio.to_thread(job.make, folder / "source")
    tree = await tree_of(source, folder / "trees", **tree_settings(job.language))

    async def work() -> SandboxResult:
        await asyncio.to_thread(_apply, tree, diff)
        for path, text in job.fixed_files.items():
            await asyncio.to_thread(tree.files.write, path, text)
        return await tree.run(job.proof, _LIMITS)

    return await tree.once("proof", lambda: tree.tried(work))


def _apply(tree: Tree, diff: str) -> None:
    """Apply a diff; git lets none of it out of the folder, and follows no link."""
    if diff:
        own = {"GIT_CEILING_DIRECTORIES": str(tree.folder), "GIT_CONFIG_GLOBAL": os.devnull}
        command = ["git", "apply", "--whitespace=nowarn", "-"]
        subprocess.run(command, cwd=tree.root, env={**os.environ, **own}, input=diff.encode(), check=True)
