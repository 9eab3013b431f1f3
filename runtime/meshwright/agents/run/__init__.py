"""Runs: an agent's work on a task, from its prompt and context to its outcome, each step journaled."""
