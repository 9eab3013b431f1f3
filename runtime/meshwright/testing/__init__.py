"""What an agent's author tests with: a mesh in memory, a scripted model, and a clock to move by hand."""

from meshwright.testing.clock import ManualClock

__all__ = ["ManualClock"]
