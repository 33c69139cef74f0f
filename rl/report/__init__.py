"""The HTML report of a run, its charts, and videos with masks laid over them."""
