"""What the commands do once their flags are read; loaded after that, as PyTorch takes seconds."""
