"""What a reader sees: tables, pictures and pages."""
