"""MPS on a node: a supervisor that runs the control daemons, and the agent's side, which controls what they allow."""
