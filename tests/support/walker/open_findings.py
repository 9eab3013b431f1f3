"""Kinds of findings that are not repaired. A walk that shows another is a failure."""

OPEN_FINDINGS: tuple[str, ...] = ()
"""The beginnings of kinds."""
