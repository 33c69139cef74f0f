"""Trajectories to look at: the HTML page, the terminal table, mask overlays and interactive play."""
