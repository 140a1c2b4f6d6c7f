"""Where tangram keeps what it can make again, on the machine of whoever runs it."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """``$TANGRAM_CACHE``, else ``$XDG_CACHE_HOME/tangram``, else ``~/.cache/tangram``."""
    if chosen := os.environ.get("TANGRAM_CACHE"):
        return Path(chosen).expanduser().absolute()
    return xdg_folder("XDG_CACHE_HOME", ".cache") / "tangram"


def xdg_folder(variable: str, fallback: str) -> Path:
    """The folder that a variable of the XDG base directories names, else ``fallback`` in the user's home."""
    chosen = os.environ.get(variable, "")
    return Path(chosen) if Path(chosen).is_absolute() else Path.home() / fallback
