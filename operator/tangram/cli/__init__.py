"""The only place that builds the parts."""
