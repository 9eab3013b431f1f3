"""Tools of agents: the `@tool` decorator, and toolsets for files, web pages and git."""

from meshwright.tools.chain import ToolCallWrapper, ToolInvocation, ToolLink, ToolWrapper
from meshwright.tools.functions import FunctionTool, delegate_tool, recall_tool, remember_tool, tools_of
from meshwright.tools.tool import Tool, ToolContext, tool
from meshwright.tools.toolset import Toolset, ToolSettings
from meshwright.tools.web import WebTools
from meshwright.tools.workspace import FileTools, GitTools

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
