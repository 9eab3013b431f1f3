"""The page of a mesh: what waits for people, tasks, agents and costs, in a browser; and its sessions."""
