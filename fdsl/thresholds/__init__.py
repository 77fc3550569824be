"""From scores of normal images to thresholds."""
