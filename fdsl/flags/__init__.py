"""Flags of the commands, and the settings that follow from them."""
