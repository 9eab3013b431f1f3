"""The MCP server of a mesh: its agents as tools, their tasks as tasks of the protocol."""
