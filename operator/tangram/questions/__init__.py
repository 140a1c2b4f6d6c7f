"""Questions about the scheduler's decisions, answered by its own cycle on a private world."""
