"""What every run of a mesh uses."""

from __future__ import annotations

from dataclasses import dataclass

from meshwright.clock import Clock
from meshwright.context.memory import Memory
from meshwright.context.service import ContextClient
from meshwright.kernel.runtime import Runtime
from meshwright.models.port import Model
from meshwright.prompts import Prompts
from meshwright.tracing import NoTracing, Tracing


@dataclass(frozen=True, slots=True)
class Services:
    """What every run of a mesh uses."""

    host: Runtime
    model: Model
    context: ContextClient
    memory: Memory
    prompts: Prompts
    tracing: Tracing | NoTracing
    clock: Clock
    project_id: str = "default"
    max_steps: int = 12
    max_repeats: int = 5
    max_chain: int = 5
    max_context_tokens: int = 4000
    max_memory_tokens: int = 400
    trace_content: bool = False
    stream: bool = True
