"""A method's maps combined with those of mutual scoring or of text."""
