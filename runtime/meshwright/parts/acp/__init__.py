"""An agent of the mesh in editors that speak the Agent Client Protocol."""
