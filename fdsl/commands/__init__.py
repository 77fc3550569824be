"""The work of the commands, imported after their flags are parsed: PyTorch takes seconds to load."""
