"""Runs: an agent's work on a task, from its prompt and context to its outcome, each step journaled."""

from meshwright.run.run import Run
from meshwright.run.runner import Employed, Runner
from meshwright.run.services import Services

__all__ = ["Employed", "Run", "Runner", "Services"]
