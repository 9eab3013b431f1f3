"""AG-UI: agents of the mesh behind the user interfaces that speak its protocol."""
