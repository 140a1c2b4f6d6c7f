"""A trace with a broken row names file, line and column, and nothing of it is used."""

from pathlib import Path

import pytest

from tangram.errors import InvalidTrace, NotReachable
from tangram.simulate.trace import TraceNode, TracePod, read_nodes, read_pods

NODES = "sn,cpu_milli,memory_mib,gpu,model\n"
PODS = "name,cpu_milli,memory_mib,num_gpu,gpu_milli,gpu_spec\n"


@pytest.fixture
def file(tmp_path):
    def write(text):
        path = tmp_path / "trace.csv"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def test_nodes_and_pods_are_read_in_their_order(file):
    assert read_nodes(file(NODES + "b,64000,262144,2,P100\na,8000,1024,0,\n")) == (
        TraceNode("b", 64000, 262144, 2, "P100"),
        TraceNode("a", 8000, 1024, 0, ""),
    )
    assert read_pods(file(PODS + "p,12000,16384,1,460,\nq,8000,1,8,1000,T4|A10\nr,1,1,0,0,\n")) == (
        TracePod(12000, 16384, 1, 460, ""),
        TracePod(8000, 1, 8, 1000, "T4|A10"),
        TracePod(1, 1, 0, 0, ""),
    )


def test_only_the_columns_that_are_needed_are_needed(file):
    assert read_pods(file("memory_mib,gpu_milli,num_gpu,cpu_milli\n1,500,1,2\n")) == (TracePod(2, 1, 1, 500, ""),)
    assert read_nodes(file("extra,sn,cpu_milli,memory_mib,gpu\n-,n,1,2,3\n")) == (TraceNode("n", 1, 2, 3, ""),)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("\ufeff" + PODS + "p,1,1,0,0,\n", id="byte order mark"),
        pytest.param(PODS.replace("\n", "\r\n") + "p,1,1,0,0,\r\n", id="Windows line ends"),
        pytest.param(PODS + "p, 1 ,1,0,0,\n\n", id="spaces and an empty last line"),
        pytest.param(PODS + 'p,"1",1,0,0,\n', id="quotes"),
        pytest.param(PODS + "p,1,1,0,0,", id="no line end at the end"),
    ],
)
def test_what_spreadsheets_do_to_a_table_does_no_harm(file, text):
    assert read_pods(file(text)) == (TracePod(1, 1, 0, 0, ""),)


GOOD = "p,1,1,1,500,\n"


@pytest.mark.parametrize(
    ("text", "line", "column"),
    [
        pytest.param("", 1, "cpu_milli", id="empty file"),
        pytest.param(PODS, 2, "cpu_milli", id="no rows"),
        pytest.param(PODS.replace("num_gpu,", "") + "p,1,1,500,\n", 1, "num_gpu", id="missing column"),
        pytest.param(PODS.replace("gpu_spec", "num_gpu") + "p,1,1,1,500,1\n", 1, "num_gpu", id="column twice"),
        pytest.param(PODS + GOOD + "p,1,1,1\n", 3, "gpu_milli", id="too few fields"),
        pytest.param(PODS + GOOD + "p,1,1,1,500,,9\n", 3, "7", id="too many fields"),
        pytest.param(PODS + GOOD + "p,-1,1,1,500,\n", 3, "cpu_milli", id="negative"),
        pytest.param(PODS + GOOD + "p,1,NaN,1,500,\n", 3, "memory_mib", id="NaN"),
        pytest.param(PODS + GOOD + "p,1,inf,1,500,\n", 3, "memory_mib", id="infinite"),
        pytest.param(PODS + GOOD + "p,1.5,1,1,500,\n", 3, "cpu_milli", id="not whole"),
        pytest.param(PODS + GOOD + "p,,1,1,500,\n", 3, "cpu_milli", id="empty field"),
        pytest.param(PODS + GOOD + "p,\u0661,1,1,500,\n", 3, "cpu_milli", id="digits of another script"),
        pytest.param(PODS + GOOD + f"p,{'9' * 5000},1,1,500,\n", 3, "cpu_milli", id="larger than anything real"),
        pytest.param(PODS + GOOD + "p,1,1,1,1001,\n", 3, "gpu_milli", id="more than a GPU"),
        pytest.param(PODS + GOOD + "p,1,1,1,0,\n", 3, "gpu_milli", id="one GPU of which nothing"),
        pytest.param(PODS + GOOD + "p,1,1,5000,1000,\n", 3, "num_gpu", id="more GPUs than a node can have"),
        pytest.param(PODS + GOOD + "\np,1,1,x,500,\n", 4, "num_gpu", id="an empty line counts as a line"),
        pytest.param(PODS + GOOD + 'p,"1,1,1,500,\n', 3, "name", id="a quote that never ends"),
        pytest.param((PODS + GOOD).encode() + b"\xff\xfe,1,1,1,500,\n", 3, "cpu_milli", id="not UTF-8"),
    ],
)
def test_a_broken_pod_list_is_refused(file, text, line, column):
    path = file(text)
    with pytest.raises(InvalidTrace) as caught:
        read_pods(path)
    error = caught.value
    assert (error.file, error.column) == (str(path), column)
    assert error.line == line
    assert str(error).startswith(f"{path}:{line}: column {column}: ")
    assert len(str(error)) < 500


@pytest.mark.parametrize(
    ("rows", "line", "column"),
    [
        pytest.param("n,1,1,1,A\nn,1,1,1,A\n", 3, "sn", id="a name twice"),
        pytest.param(",1,1,1,A\n", 2, "sn", id="no name"),
        pytest.param("n,1,1,-1,A\n", 2, "gpu", id="negative"),
        pytest.param("n,1,1,2000,A\n", 2, "gpu", id="more GPUs than a node can have"),
        pytest.param("n,1,1e3,1,A\n", 2, "memory_mib", id="not whole"),
    ],
)
def test_a_broken_node_list_is_refused(file, rows, line, column):
    with pytest.raises(InvalidTrace) as caught:
        read_nodes(file(NODES + rows))
    assert (caught.value.line, caught.value.column) == (line, column)


def test_models_are_needed_where_pods_ask_for_some(file):
    path = file("sn,cpu_milli,memory_mib,gpu\nn,1,1,1\n")
    assert len(read_nodes(path)) == 1
    with pytest.raises(InvalidTrace, match="column model"):
        read_nodes(path, with_models=True)


def test_a_file_that_cannot_be_read_is_one_clear_line(tmp_path):
    with pytest.raises(NotReachable, match="No such file"):
        read_pods(tmp_path / "nowhere.csv")
    with pytest.raises(NotReachable, match="directory"):
        read_nodes(Path(tmp_path))
