"""Room by evictions: who may preempt whom, and at what cost."""
