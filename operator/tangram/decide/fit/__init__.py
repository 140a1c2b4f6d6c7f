"""Does a pod fit on a node, and which devices would it get there."""
