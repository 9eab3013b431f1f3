"""Runs: an agent's work on a task, from its prompt and context to its outcome, each step journaled."""

from meshwright.run.context import Services
from meshwright.run.run import Run
from meshwright.run.runner import Runner

__all__ = ["Run", "Runner", "Services"]
