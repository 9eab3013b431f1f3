"""Tools of agents: the `@tool` decorator, and toolsets for files, web pages and git."""

from meshwright.agents.sandbox.port import BoxLimits, Sandbox
from meshwright.agents.tools.chain import ToolCallWrapper, ToolInvocation, ToolLink, ToolWrapper
from meshwright.agents.tools.functions import (
    FunctionTool,
    collect_tools,
    delegate_tool,
    recall_tool,
    remember_tool,
)
from meshwright.agents.tools.tool import Tool, ToolContext, Unchanged, tool
from meshwright.agents.tools.toolset import Toolset, ToolSettings
from meshwright.agents.tools.web import WebTools
from meshwright.agents.tools.workspace import FileTools, GitTools
from meshwright.core.checks import CheckResult
from meshwright.core.comments import mark_comment

__all__ = [
    "BoxLimits",
    "CheckResult",
    "FileTools",
    "FunctionTool",
    "GitTools",
    "Sandbox",
    "Tool",
    "ToolCallWrapper",
    "ToolContext",
    "ToolInvocation",
    "ToolLink",
    "ToolSettings",
    "ToolWrapper",
    "Toolset",
    "Unchanged",
    "WebTools",
    "collect_tools",
    "delegate_tool",
    "mark_comment",
    "recall_tool",
    "remember_tool",
    "tool",
]
