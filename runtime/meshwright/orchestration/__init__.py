"""Who is in the mesh, who is best for a task, and the road of a task from acceptance to outcome."""
