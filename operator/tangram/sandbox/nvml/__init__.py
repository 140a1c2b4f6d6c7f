"""A GPU driver's library without a GPU: NVML's interface in C over a file that says what there is."""
