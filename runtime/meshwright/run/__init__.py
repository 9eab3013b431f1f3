"""Runs: an agent's work on a task, from its prompt and context to its outcome, each step journaled."""

from meshwright.run.run import Run
from meshwright.run.runner import Runner
from meshwright.run.services import Services

__all__ = ["Run", "Runner", "Services"]
