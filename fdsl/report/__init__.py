"""What a reader looks at: tables, pictures and pages."""
