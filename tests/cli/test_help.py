"""What `tangram --help` shows, and how names are found that are spelled nearly right."""

import re

import pytest
from click.testing import CliRunner

from tangram.cli.main import PARTS, VERBS, tangram
from tangram.questions.suggest import did_you_mean, nearest


def test_help_has_a_part_for_users_one_for_the_cluster_and_one_for_the_lab() -> None:
    text = CliRunner().invoke(tangram, ["--help"]).output
    headings = re.findall(r"^(\S.*):$", text, re.MULTILINE)
    assert headings == ["Options", *PARTS]
    for part in PARTS:
        section = text.partition(f"\n{part}:\n")[2].partition("\n\n")[0]
        listed = re.findall(r"^  ([a-z-]+)", section, re.MULTILINE)
        assert listed == [name for name, verb in VERBS.items() if verb.part == part]


@pytest.mark.parametrize(
    ("word", "known", "found"),
    [
        ("explian", VERBS, ("explain",)),
        ("Research", ("research", "research-2", "sales"), ("research", "research-2")),
        ("zzz", VERBS, ()),
        ("x", (), ()),
    ],
)
def test_the_nearest_names_are_proposed(word: str, known: tuple[str, ...], found: tuple[str, ...]) -> None:
    assert nearest(word, known) == found


def test_names_are_proposed_as_the_end_of_a_sentence() -> None:
    assert did_you_mean("trian", ("train", "trains", "serve")) == '; did you mean "train" or "trains"?'
    assert did_you_mean("zzz", ("train",)) == ""
