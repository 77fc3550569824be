"""The work of one command among several processes."""
