"""SAM 2 with language prompts: building, decoding, tracking and losses."""
