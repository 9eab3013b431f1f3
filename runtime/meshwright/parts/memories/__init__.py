"""The memories of agents, as people list and change them."""
