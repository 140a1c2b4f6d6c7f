"""One table of all metrics and the collectors that read it."""
