"""Tasks from the bus of a mesh on Dapr."""
