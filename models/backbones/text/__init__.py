"""CLIP's text side: prompts and text encoder."""
