"""Moving Shapes: synthetic videos with exact masks and expressions of known kinds."""
