"""What is true now, as read-only arrays."""
