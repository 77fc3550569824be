"""Fitting the heads: setup, training set, batches, step and loop."""
