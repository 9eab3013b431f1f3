"""Tools of agents: the `@tool` decorator, and toolsets for files, web pages and git."""

from meshwright.tools.chain import ToolCallWrapper, ToolInvocation, ToolLink
from meshwright.tools.files import FileTools
from meshwright.tools.functions import FunctionTool, delegate_tool, recall_tool, remember_tool, tools_of
from meshwright.tools.git import GitTools
from meshwright.tools.tool import Tool, ToolContext, ToolWrapper, tool
from meshwright.tools.toolset import Toolset, ToolSettings
from meshwright.tools.web import WebTools

__all__ = [
    "FileTools",
    "FunctionTool",
    "GitTools",
    "Tool",
    "ToolCallWrapper",
    "ToolContext",
    "ToolInvocation",
    "ToolLink",
    "ToolSettings",
    "ToolWrapper",
    "Toolset",
    "WebTools",
    "delegate_tool",
    "recall_tool",
    "remember_tool",
    "tool",
    "tools_of",
]
