"""The agents of a mesh, the choice of one for a task, and the task from acceptance to outcome."""
