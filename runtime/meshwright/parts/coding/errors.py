"""The errors of coding agents."""

from __future__ import annotations

from meshwright import MeshError


class CodingAgentFailed(MeshError):
    """A coding agent cannot be started, ended before its work, or broke its protocol."""


class CodingAgentGone(CodingAgentFailed):
    """The program of a coding agent ended in the middle of its work: a later session may go on."""


class SessionLost(CodingAgentGone):
    """The program of a coding agent does not know an earlier session: the next one starts over."""


class NothingDelivered(CodingAgentFailed):
    """A coding agent ended its work, and the tree has no change."""


class TestsBroken(CodingAgentFailed):
    """Tests fail after the work of a coding agent that passed before it."""

    __test__ = False  # its name is like that of a class of tests
