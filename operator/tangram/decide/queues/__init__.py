"""Whose turn it is: shares, promises and limits down the tree of queues."""
