"""Test runs: which, on which images, their maps, metrics and tables."""
