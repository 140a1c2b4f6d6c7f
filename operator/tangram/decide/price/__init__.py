"""What the workload is worth on this pool, and the compiled line that scores by it."""
