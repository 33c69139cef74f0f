"""Views of trajectories: the HTML page, the terminal table, mask overlays, and episodes in which a person acts."""
