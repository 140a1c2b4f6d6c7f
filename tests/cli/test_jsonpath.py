"""Templates of `-o jsonpath=`; tests/cli/test_on_a_cluster.py compares them with kubectl's own."""

from typing import Any

import pytest

from tangram.cli.jsonpath import parse
from tangram.errors import InvalidInput

OBJECT: dict[str, Any] = {
    "kind": "List",
    "items": [
        {"name": "a", "labels": {"x.y/z": "1"}, "gpus": 2, "ok": True, "conditions": [{"type": "Ready", "is": "yes"}]},
        {"name": "b", "gpus": 8},
    ],
}


@pytest.mark.parametrize(
    ("template", "printed"),
    [
        ("{.items[*].name}", "a b"),
        (".kind", "List"),
        ("kind", "List"),
        ("x={$.kind}!{@.kind}", "x=List!List"),
        ('{range .items[*]}{.name}{"\\t"}{.gpus}{"\\n"}{end}', "a\t2\nb\t8\n"),
        ("{range .items[*]}[{.gpus}, {$.kind}] {end}", "[2, List] [8, List] "),
        ("{.items[?(@.gpus>2)].name}", "b"),
        ("{.items[?(@.name!='b')].gpus}", "2"),
        ("{.items[?(@.labels)].gpus}", "2"),
        ("{.items[?(@.name>3)].gpus}", ""),
        ('{.items[0].conditions[?(@.type=="Ready")].is}', "yes"),
        ("{..name}", "a b"),
        ("{.items[-1].gpus} {.items[0:2].gpus} {.items[0,1].gpus}", "8 2 8 2 8"),
        (r"{.items[0].labels.x\.y/z}{.items[0].labels['x.y/z']}", "11"),
        ("{.items[0]['gpus','ok']}", "2 true"),
        ("{.items[0].conditions}", '[{"type":"Ready","is":"yes"}]'),
        ("{.nope.never}{.items[9]}", ""),
    ],
)
def test_a_template_prints_what_it_names(template: str, printed: str) -> None:
    assert parse(template).render(OBJECT) == printed


@pytest.mark.parametrize(
    "template",
    [
        "{.a",
        "{end}",
        "{range .a}x",
        "{.a[}",
        "{.a[x]}",
        "{foo}",
        "{.items[?(x)]}",
        "{..}",
        '{"a}',
        "{.a[]}",
        "{.a[::0]}",
    ],
)
def test_a_template_that_cannot_be_read_is_refused(template: str) -> None:
    with pytest.raises(InvalidInput, match="jsonpath: "):
        parse(template)
