"""The parts of tools."""

from meshwright.core.part import Part

TOOLS = Part(__name__, "tools", settings="settings:ToolsSettings")
APPROVALS = Part(__name__, "approvals", settings="settings:ApprovalsSettings")
