"""What objects ask for, read once from their text."""
