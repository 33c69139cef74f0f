"""VTS-CoT traces: write them from masks, state claims that masks can check, and validate them."""
