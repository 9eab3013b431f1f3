"""A2A: agents of the mesh for agents elsewhere that speak its protocol."""
