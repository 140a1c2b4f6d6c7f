"""What should be: pure functions from a snapshot to a plan."""
