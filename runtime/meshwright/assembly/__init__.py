"""Assembly: the only place that picks adapters and joins the parts of a mesh."""

from meshwright.assembly.agents import employ
from meshwright.assembly.fronts import listen, serve
from meshwright.assembly.hosts import Grounds, embedded_host
from meshwright.assembly.mesh import build_mesh, build_worker
from meshwright.assembly.roles import serves_api

__all__ = [
    "Grounds",
    "build_mesh",
    "build_worker",
    "embedded_host",
    "employ",
    "listen",
    "serve",
    "serves_api",
]
