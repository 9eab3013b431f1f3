"""Contenders that work on the same scenarios of a simulated provider.

Each is a program: `python -m benchmarks.contest.NAME JOB`, a `tests.support.simulator.job.Job` as JSON. It
works on the items that have no answer yet, and ends; it may be killed and started again.
"""
