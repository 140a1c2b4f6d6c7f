"""The tree of queues and the priority classes as rows."""
