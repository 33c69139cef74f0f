"""The eight public benchmarks: protocols, scoring, prediction files and submissions."""
