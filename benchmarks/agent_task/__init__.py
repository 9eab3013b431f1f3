"""The agent's task: one agent, one tool, two calls of a model over HTTP; a side for each system.

Each side runs by the interpreter of its system, drives it from the same process, and prints one line of JSON
with the figures of all numbers in flight. `job.py` is the work, which each makes durable as documented.
"""
