"""A local cluster of real parts, for trying and testing."""
