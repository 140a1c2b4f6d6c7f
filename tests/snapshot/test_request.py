"""What a pod asks for, by kube-scheduler's documented rules (KEP-753 for sidecars), and which requests are refused."""

import pytest
from tests.worlds import container, pod

from tangram.api import names
from tangram.api.objects import Container, Pod, Resources
from tangram.snapshot.requests.request import read_request
from tangram.snapshot.values.asks import Ask


def asked(one: Pod, resource: str = "cpu") -> int:
    return dict(read_request(one).resources).get(resource, 0)


def cpu(name: str, amount: int, *, sidecar: bool = False) -> Container:
    return container(name, cpu=amount, memory="0", sidecar=sidecar)


@pytest.mark.parametrize(
    ("init", "main", "overhead", "cores"),
    [
        ([], [2, 3], 0, 5),
        ([4], [2], 0, 4),
        ([1, 1], [2], 0, 2),
        ([("s", 1)], [2], 0, 3),
        ([("s", 1), 4], [2], 0, 5),
        ([4, ("s", 1)], [2], 0, 4),
        ([4, ("s", 1)], [3], 0, 4),
        ([("s", 1), ("s", 2), 1], [2], 0, 5),
        ([("s", 1), 3, ("s", 2)], [1], 0, 4),
        ([5], [2], 1, 6),
        ([], [2], 1, 3),
    ],
)
def test_init_containers_sidecars_and_overhead(init: list[object], main: list[int], overhead: int, cores: int) -> None:
    """max(init steps with the sidecars begun before them, containers + sidecars) + overhead; ("s", n) is a sidecar."""
    steps = [
        cpu(f"i{i}", one[1], sidecar=True) if isinstance(one, tuple) else cpu(f"i{i}", one)  # type: ignore[arg-type]
        for i, one in enumerate(init)
    ]
    containers = [cpu(f"c{i}", one) for i, one in enumerate(main)]
    found = pod("a", init=steps, containers=containers, overhead={"cpu": overhead} if overhead else None)
    assert asked(found) == 1000 * cores


def test_a_limit_alone_is_a_request() -> None:
    one = Container("c", Resources(requests={"cpu": 1}, limits={"cpu": 2, "memory": "1Gi", names.GPU_RESOURCE: 1}))
    found = read_request(pod("a", containers=[one]))
    assert dict(found.resources) == {"cpu": 1000, "memory": 1024, names.GPU_RESOURCE: 1, "pods": 1}
    assert found.asks == (Ask(1, 1000),)


def test_units_of_resources() -> None:
    extra = {"hugepages-2Mi": "4Mi", "example.com/nic": 2, "ephemeral-storage": "1Gi"}
    found = dict(read_request(pod("a", extra=extra)).resources)
    assert (found["hugepages-2Mi"], found["example.com/nic"], found["ephemeral-storage"]) == (4, 2, 1024)


def test_each_container_has_an_ask_of_its_own() -> None:
    found = read_request(pod("a", containers=[container("x", whole=2), container("y", gpu=30), container("z")]))
    assert found.asks == (Ask(2, 1000), Ask(1, 300))
    assert [(one.container, one.ask) for one in found.containers] == [("x", 0), ("y", 1)]


# init containers and sidecars (s), containers -> asks, and ask and first device of each container; hundredths
HANDED_ON: dict[str, tuple[tuple[list[int | tuple[str, int]], list[int]], list[Ask], list[tuple[int, int]]]] = {
    "less than the first container": (([20], [30, 10]), [Ask(1, 300), Ask(1, 100)], [(0, 0), (0, 0), (1, 0)]),
    "more than the first container": (([60], [30]), [Ask(1, 600)], [(0, 0), (0, 0)]),
    "the rest goes to the second": (([60], [30, 50]), [Ask(1, 800)], [(0, 0), (0, 0), (0, 0)]),
    "from one to the next": (([60, 20], [10]), [Ask(1, 600)], [(0, 0), (0, 0), (0, 0)]),
    "a sidecar after it": (([20, 60, ("s", 10)], [40]), [Ask(1, 600)], [(0, 0)] * 4),
    "a sidecar before it": (([("s", 10), 60], [40]), [Ask(1, 100), Ask(1, 600)], [(0, 0), (1, 0), (1, 0)]),
    "a part and then a whole GPU": (([60], [100]), [Ask(1, 1000)], [(0, 0), (0, 0)]),
    "whole GPUs": (([300], [100, 200]), [Ask(3, 1000)], [(0, 0), (0, 0), (0, 1)]),
    "nobody to hand on to": (([30, 60], []), [Ask(1, 600)], [(0, 0), (0, 0)]),
}


@pytest.mark.parametrize("name", HANDED_ON)
def test_an_init_container_hands_its_devices_on(name: str) -> None:
    (before, after), asks, places = HANDED_ON[name]
    init = [
        container(f"i{i}", gpu=one[1], sidecar=True) if isinstance(one, tuple) else container(f"i{i}", gpu=one)
        for i, one in enumerate(before)
    ]
    main = [container(f"m{i}", gpu=one) for i, one in enumerate(after)] or [container("main")]
    found = read_request(pod("a", containers=main, init=init))
    given = {one.container: one for one in found.containers}
    order = [one.name for one in (*init, *main) if one.name in given]
    assert list(found.asks) == asks
    assert [(given[name].ask, given[name].first) for name in order] == places


@pytest.mark.parametrize(("before", "after"), [(60, [50, 60]), (200, [30]), (30, [300])])
def test_devices_that_could_not_be_handed_on_are_refused(before: int, after: list[int]) -> None:
    main = [container(f"m{i}", gpu=one) for i, one in enumerate(after)]
    with pytest.raises(ValueError, match="init hands its GPUs on to the next ones; allowed: "):
        read_request(pod("a", containers=main, init=[container("init", gpu=before)]))


def test_memory_annotation_belongs_to_fractions() -> None:
    containers = [container("x", gpu=30), container("y", whole=1)]
    assert read_request(pod("a", containers=containers, gpu_memory="8Gi")).asks == (Ask(1, 300, 8192), Ask(1, 1000))


def test_zero_is_no_request() -> None:
    extra = {names.GPU_RESOURCE: 0, names.FRACTION_RESOURCE: "0"}
    assert read_request(pod("a", extra=extra)).asks == ()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"gpu": 130}, "container main: scheduling.example.com/gpu: 130 percent: above 100 only multiples of 100"),
        (
            {"gpu": 30, "whole": 1},
            "container main: asks for nvidia.com/gpu and scheduling.example.com/gpu;",
        ),
        ({"gpu": "thirty"}, "container main: scheduling.example.com/gpu: 'thirty' is not a non-negative quantity"),
        ({"gpu": "-30"}, "container main: scheduling.example.com/gpu: '-30' is not"),
        ({"gpu": "NaN"}, "is not a non-negative quantity; allowed: a quantity such as"),
        ({"whole": "1e400"}, "container main: nvidia.com/gpu: '1e400' is not"),
        ({"whole": 5000}, "5000 devices are more than any node has; allowed: at most 1024"),
        ({"whole": "1e15"}, "devices are more than any node has"),
        ({"cpu": "1e15"}, "container main: cpu: '1e15' is larger than anything real"),
        ({"cpu": "9223372036854775807"}, "container main: cpu: '9223372036854775807' is larger than anything real"),
        ({"whole": "9" * 40}, "is larger than anything real"),
        ({"memory": "much"}, "container main: memory: 'much' is not"),
        ({"gpu": 30, "gpu_memory": "8 Gi"}, "annotation scheduling.example.com/gpu-memory: '8 Gi' is not"),
        ({"gpu": 30, "gpu_memory": "7Ei"}, "annotation scheduling.example.com/gpu-memory: '7Ei' is more than any GPU"),
        ({"gpu": 30, "gpu_memory": ""}, None),
        ({"overhead": {"cpu": "x"}}, "overhead: cpu: 'x' is not"),
    ],
)
def test_a_request_that_cannot_be_read_is_refused_by_name(options: dict[str, object], says: str | None) -> None:
    one = pod("a", **options)  # type: ignore[arg-type]
    if says is None:
        assert read_request(one).asks
        return
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the text is compared below
        read_request(one)
    assert says in str(caught.value)


def test_the_containers_together_may_not_overflow_either() -> None:
    with pytest.raises(ValueError, match="together ask for more than anything real"):
        read_request(pod("a", containers=[container(f"c{i}", cpu="8e8") for i in range(2)]))
