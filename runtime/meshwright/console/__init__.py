"""The console of commands: options, connections to a mesh, tables, progress. Faces and `cli` use it."""
