"""Models of GPUs, as users name them."""


def model_matches(wanted: str, model: str) -> bool:
    """``A100`` means every model with that word in its name, as in NVIDIA-A100-SXM4-80GB."""
    wanted, model = wanted.lower(), model.lower()
    return wanted == model or wanted in model.replace("_", "-").replace(" ", "-").split("-")
