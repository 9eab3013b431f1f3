"""The kernel: one runtime for actors, and the port to the stores that it runs on."""
