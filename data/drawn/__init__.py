"""The demo's drawn products."""
