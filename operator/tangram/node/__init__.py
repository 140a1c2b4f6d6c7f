"""The agent on a GPU node."""
