"""What surrounds the method: configuration, runtime, checkpoints, metrics, results and reports."""
