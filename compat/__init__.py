"""The compatibility programme: runs real software beside the mesh, and writes docs/compatibility.md."""
