"""Walks at random through the life of a mesh, and reports what no mesh may do."""
