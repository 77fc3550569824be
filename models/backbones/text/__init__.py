"""CLIP's text side: prompts, text encoder, and patches in the space of both."""
