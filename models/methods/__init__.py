"""What turns tokens and a memory into anomaly maps, one module for each method."""
