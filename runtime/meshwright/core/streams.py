"""Streams to programs that may end at any time."""

PEER_GONE = (OSError, RuntimeError)
"""The errors of a write to a program that has gone: uvloop raises RuntimeError at a pipe that it closed."""
