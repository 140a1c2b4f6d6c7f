"""What users write and what tangram reads of Kubernetes: the single source of the CRDs."""
