"""A mesh of AI agents: tasks that, once accepted, are never lost."""

__version__ = "0.1.0"
