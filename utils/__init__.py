"""The ground floor: it imports nothing of this project, and everything may import it."""
