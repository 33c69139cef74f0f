"""The HTML report of a run, its charts, and videos with overlaid masks."""
