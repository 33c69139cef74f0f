"""VTS-CoT traces: evidence from masks, turns, sentences, claims and their validation."""
