"""The worker program on PostgreSQL: a whole mesh, and in one of them a client.

Its argument is the file of its post, as JSON. It says what `dapr_node` says, and takes the same signals.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter

from meshwright.mesh.app import build_mesh
from meshwright.mesh.mesh import Mesh
from meshwright.parts.proving.records import Records
from meshwright.parts.proving.workload import make_agents
from tests.support.faults.dapr_node import run_until_told
from tests.support.faults.failpoints import Failpoints
from tests.support.faults.node import ROOT, Job, model_of
from tests.support.settings import Settings


@dataclass(frozen=True)
class Post:
    """One worker's place: what it does, its own folder, and the database that it shares."""

    job: Job
    data: str
    url: str

    def encode(self) -> str:
        return TypeAdapter(Post).dump_json(self).decode()

    @classmethod
    def decode(cls, text: str) -> Post:
        return TypeAdapter(Post).validate_json(text)


def mesh_of(post: Post) -> Mesh:
    books, unharmed = Records(Path(post.job.folder)), Failpoints()
    return build_mesh(
        Settings(data_dir=Path(post.data), database=post.url, **post.job.settings),
        project=ROOT,
        agents=make_agents(books, unharmed.passes),
        model=model_of(post.job, books, unharmed),
    )


if __name__ == "__main__":
    post = Post.decode(Path(sys.argv[1]).read_text())
    run_until_told(mesh_of(post), post.job)
