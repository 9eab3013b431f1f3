"""Plain data and small tools that everything else rests on: imports nothing else of Meshwright."""

__version__ = "0.1.0"
"""The version of Meshwright."""
