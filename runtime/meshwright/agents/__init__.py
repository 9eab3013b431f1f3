"""Agents: found, bound to their tools, and at work on a task."""
