"""What somebody probably meant by a name that does not exist."""

import difflib
from collections.abc import Iterable

_MOST = 3
_SIMILAR, _AS_SIMILAR = 0.6, 0.15
"""Ratio of equal characters from which a name is proposed, and how much less than the nearest one's it may be."""


def nearest(word: str, known: Iterable[str]) -> tuple[str, ...]:
    """The known names that are most like a word, the nearest first; capitals make no difference."""
    spelled = {name.lower(): name for name in known}
    found = difflib.get_close_matches(word.lower(), spelled, _MOST, _SIMILAR)
    ratios = [difflib.SequenceMatcher(None, name, word.lower()).ratio() for name in found]
    return tuple(spelled[name] for name, ratio in zip(found, ratios, strict=True) if ratio >= ratios[0] - _AS_SIMILAR)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The end of a sentence that names them, such as ``; did you mean "train"?``; empty where nothing is near."""
    found = [f'"{name}"' for name in nearest(word, known)]
    return f"; did you mean {' or '.join(found)}?" if found else ""
