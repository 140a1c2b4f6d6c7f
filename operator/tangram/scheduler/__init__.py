"""The cycle: observe, decide, apply, remember in-flight."""
