"""tangram: whole and fractional GPUs for training and inference on one shared pool."""

__version__ = "0.1.0"
