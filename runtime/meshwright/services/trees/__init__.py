"""Trees as a part of a mesh: their operations, routes and commands, and when they are removed."""
