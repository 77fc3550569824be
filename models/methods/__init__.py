"""The methods, one module each: they turn tokens and a memory into anomaly maps."""
