"""How a mesh grows: a simulation with the costs of real workers, and the study that is made with it."""
