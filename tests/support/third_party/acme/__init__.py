"""What Acme adds to a mesh."""
