"""The eight public benchmarks: protocols, scores, prediction files and submissions."""
