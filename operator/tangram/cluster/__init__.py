"""The Kubernetes border: watch, bind, evict, patch."""
