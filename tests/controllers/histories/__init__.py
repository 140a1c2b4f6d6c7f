"""Random histories of the controllers: real processes of them on an API server in memory, with time that only waits."""
