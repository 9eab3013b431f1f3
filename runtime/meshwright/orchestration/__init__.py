"""Who is in the mesh, who is best for a task, and the lifecycle of a task from acceptance to outcome."""
