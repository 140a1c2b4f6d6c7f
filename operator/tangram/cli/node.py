"""``tangram node``."""

from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, NamedTuple

import click

from tangram.cli.options import cluster_options, log_options, port_options
from tangram.cli.verify import verify
from tangram.cluster.watch import Options

if TYPE_CHECKING:
    from tangram.cli.gpu_node import GpuNodeBorder
    from tangram.cli.guard import Certificate
    from tangram.cluster.events import Recorder
    from tangram.node.agent import Giving, Place
    from tangram.node.gpus import Holding
    from tangram.node.injection import Injector
    from tangram.node.ledger import Mismatch
    from tangram.settings import NodeSettings

_PLUGINS = Path("/var/lib/kubelet/device-plugins")
_POD_RESOURCES = Path("/var/lib/kubelet/pod-resources/kubelet.sock")


@click.group(invoke_without_command=True, commands=[verify])
@cluster_options
@click.option("--node", "node_name", envvar="NODE_NAME", show_envvar=True, help="Name of the Node that this is.")
@click.option("--scheduler-name", default="tangram", show_default=True, help="Give GPUs to pods that it has placed.")
@click.option(
    "--mode",
    type=click.Choice(["mps", "time-slice", "exclusive", "mig"]),
    default="mps",
    show_default=True,
    help="How tenants of one GPU are kept apart.",
)
@click.option(
    "--device-injection",
    type=click.Choice(["auto", "env", "device-nodes", "cdi"]),
    default="auto",
    show_default=True,
    help="How GPUs get into containers: NVIDIA's runtime, plain device files, or CDI; auto: as the node is set up.",
)
@click.option("--serve-whole-gpus", is_flag=True, help="Serve nvidia.com/gpu too: not beside NVIDIA's device plugin.")
@click.option("--numa-topology", is_flag=True, help="Report to the kubelet the GPUs' NUMA nodes.")
@click.option(
    "--failure-predictor",
    default="trend",
    show_default=True,
    metavar="NAME",
    help="Who says that a GPU is likely to fail soon: trend, or one of an installed distribution.",
)
@click.option(
    "--memory-overcommit-percent",
    type=click.IntRange(100, 400),
    default=100,
    show_default=True,
    help="Part of a GPU's memory that its tenants may be promised.",
)
@click.option(
    "--device-plugins",
    type=click.Path(path_type=Path, file_okay=False),
    default=_PLUGINS,
    show_default=True,
    help="The kubelet's folder of device plugins.",
)
@click.option(
    "--pod-resources",
    type=click.Path(path_type=Path, dir_okay=False),
    default=_POD_RESOURCES,
    show_default=True,
    help="The kubelet's pod-resources socket.",
)
@click.option(
    "--mps-root",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("/run/tangram/mps"),
    show_default=True,
    help="Folder of the MPS daemons' pipes; containers have theirs mounted from there.",
)
@port_options
@click.option(
    "--metrics-access",
    type=click.Choice(["token", "open"]),
    default="token",
    show_default=True,
    help="Who may read /metrics: over TLS whom the API server lets `get` that path, or everybody in plain text.",
)
@click.option(
    "--metrics-certificate",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder with tls.crt and tls.key for /metrics. [default: one made at the start, that nobody can check]",
)
@log_options
@click.pass_context
def node(
    call: click.Context,
    kubeconfig: Path | None,
    context: str | None,
    node_name: str | None,
    scheduler_name: str,
    mode: str,
    device_injection: str,
    serve_whole_gpus: bool,
    numa_topology: bool,
    failure_predictor: str,
    memory_overcommit_percent: int,
    device_plugins: Path,
    pod_resources: Path,
    mps_root: Path,
    host: str,
    health_port: int,
    metrics_port: int,
    metrics_access: str,
    metrics_certificate: Path | None,
) -> None:
    """Give containers the GPUs that the scheduler chose for them, and say what is true of this node's GPUs."""
    if call.invoked_subcommand is not None:
        return
    if not node_name:
        raise click.UsageError("--node or the variable NODE_NAME must name this node")
    if (mode, device_injection) == ("mig", "device-nodes"):
        raise click.UsageError("--mode mig needs --device-injection env or cdi: a slice is no device file of its own")
    import logging
    import os

    # The library writes a line for every connection that a kubelet closes; what matters is said in our own log.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from tangram.api.names import GPU_RESOURCE
    from tangram.cli.guard import Certificate
    from tangram.cli.processes import run_until_signal
    from tangram.errors import PluginError
    from tangram.node.agent import Giving, Place
    from tangram.node.gpus import Isolation
    from tangram.node.injection import Injection, Injector
    from tangram.node.predict import predictor
    from tangram.node.slots import FRACTIONS, whole
    from tangram.settings import NodeSettings

    settings = NodeSettings(
        scheduler_name=scheduler_name,
        memory_overcommit_percent=memory_overcommit_percent,
        numa_topology=numa_topology,
        failure_predictor=failure_predictor,
    )
    try:
        predictor(failure_predictor)
    except PluginError as error:
        raise click.UsageError(str(error)) from None
    resources = (FRACTIONS, whole(GPU_RESOURCE)) if serve_whole_gpus else (FRACTIONS,)
    giving = Giving(resources, Injector(Isolation(mode), Injection(device_injection), PurePosixPath(mps_root)))
    place = Place(node_name, device_plugins, pod_resources)
    served = " and ".join(one.resource for one in resources)
    logging.getLogger("tangram.node").info(
        "serving %s on node %s: mode %s, device injection %s", served, node_name, mode, device_injection
    )
    guarded = metrics_access == "token" and metrics_port
    certificate = Certificate.load(metrics_certificate, node_name) if guarded else None
    answering = _Answering((host, health_port, metrics_port), certificate)

    async def work() -> None:
        while True:  # each round but the last ends when it turns out whose devices the node has
            await _run((kubeconfig, context), settings, giving, place, answering)

    run_until_signal(work(), starts_programs=True)


class _Answering(NamedTuple):
    """How probes and Prometheus reach the agent."""

    ports: tuple[str, int, int]
    """Host, port for health, port for metrics; 0: none."""
    certificate: "Certificate | None"
    """Of the metrics; None: they are plain text for everybody."""


async def _run(
    cluster: tuple[Path | None, str | None],
    settings: "NodeSettings",
    giving: "Giving",
    place: "Place",
    answering: _Answering,
) -> None:
    """Run until cancelled, or until another vendor's devices turn up; ``cluster`` is a kubeconfig and a context."""
    import time
    from dataclasses import replace
    from functools import partial

    from prometheus_client import CollectorRegistry

    from tangram import __version__
    from tangram.api.nodes import NodePod
    from tangram.cli.gpu_node import GpuNodeBorder, probe_for
    from tangram.cli.guard import Guard
    from tangram.cli.processes import identity
    from tangram.cli.serving import serving
    from tangram.cluster.backoff import Backoff
    from tangram.cluster.events import Recorder
    from tangram.cluster.kubeconfig import load_access
    from tangram.cluster.paths import PODS
    from tangram.cluster.rest import Client
    from tangram.cluster.review import Reviewer
    from tangram.cluster.watch import ListWatch
    from tangram.node.agent import Agent, Beside
    from tangram.node.alarms import Alarms
    from tangram.node.counters import PluginCollector
    from tangram.node.exporter import Exporter
    from tangram.node.gpus import Isolation
    from tangram.node.loops import Part, rings_within
    from tangram.node.mps.daemons import Daemons, forget_wanted
    from tangram.node.predict import predictor
    from tangram.node.processes import Processes
    from tangram.node.report import Facts
    from tangram.node.reporter import Reporter
    from tangram.node.sharing import Sharing, Unsupervised
    from tangram.node.software import Software
    from tangram.settings import BorderSettings
    from tangram.units import rfc3339

    border = BorderSettings(concurrency=4)
    certificate = answering.certificate
    access = load_access(*cluster, token_refresh=border.token_refresh)
    processes = Processes()
    exporter = Exporter(place.node, processes, time.monotonic)
    async with Client(access, border) as client, Recorder(client, instance=identity()) as recorder:
        gpu_node = GpuNodeBorder(client, place.node)
        predict = predictor(settings.failure_predictor)
        probe, giving = await probe_for(gpu_node, giving, predict, settings.driver_patience)
        await _choose_injection(giving.injector, gpu_node)
        events, mps_root = _Events(recorder), Path(giving.injector.mps_root)
        sharing: Sharing = Unsupervised(giving.isolation)
        if giving.isolation is Isolation.MPS:
            sharing = Daemons(root=mps_root, notice=partial(events.ceiling, place.node))
        else:
            forget_wanted(mps_root)
        agent = Agent(place, giving, probe, settings, Beside(events, Backoff, sharing, exporter, processes))
        alarms, runs = Alarms(events.unhealthy), [Software()]

        def facts() -> Facts:
            return replace(agent.facts(__version__), software=runs[-1])

        def keep(found: Software) -> None:
            runs[:] = [found]

        reporter = Reporter(gpu_node, facts, time.monotonic, lambda: rfc3339(time.time()), alarms)
        pods = ListWatch(
            client, PODS.collection(), NodePod, agent.put, Options(field_selector=f"spec.nodeName={place.node}")
        )

        async def until_change(seconds: float) -> None:
            await rings_within(agent.shared.devices_changed.next_ring(), seconds)

        def ready() -> str | None:
            return "; ".join(f"{part}: {text}" for part, text in sorted(agent.problems().items())) or None

        figures = CollectorRegistry()
        figures.register(exporter)
        figures.register(PluginCollector(agent.shared.counters))
        guard = Guard(Reviewer(client, time.monotonic).status, certificate.context) if certificate else None
        async with serving(answering.ports, lambda: None, ready, figures, guard):
            parts: dict[str, Part] = {
                "pods": pods.run,
                "software": partial(gpu_node.follow_software, keep),
                "report": partial(reporter.run, settings.probe_interval, until_change),
            }
            if certificate is not None:
                parts["certificate"] = certificate.keep
            if not giving.resources:
                parts["node"] = gpu_node.follow
            running = agent.run(parts, reporter.reported)
            await gpu_node.run_until_decided(running, lambda: bool(agent.inventory.gpus))


async def _choose_injection(injector: "Injector", gpu_node: "GpuNodeBorder") -> None:
    """Find out how GPUs get into containers here, where nobody has said so."""
    import logging

    from tangram.node import cdi
    from tangram.node.injection import Injection, chosen

    if injector.injection is Injection.AUTO:
        injector.injection, why = chosen(await gpu_node.container_runtime(), cdi.find(injector.cdi_folders))
        logging.getLogger("tangram.node").info("device injection %s: %s", injector.injection, why)


class _Events:
    """Reports to users in Events on their pods."""

    def __init__(self, recorder: "Recorder") -> None:
        self._recorder = recorder

    def mismatch(self, found: "Mismatch") -> None:
        """A container holds other GPUs than its pod's record names."""
        from tangram.cluster.events import Regarding

        pod = Regarding("v1", "Pod", found.pod, found.namespace, found.uid)
        self._recorder.record(pod, "GpuMismatch", found.text, action="Comparing", warning=True)

    def ceiling(self, node: str, uuid: str, text: str) -> None:
        """Somebody else than the agent has changed what holds the clients of a GPU."""
        from tangram.api.names import API_VERSION
        from tangram.cluster.events import Regarding

        gpu_node = Regarding(API_VERSION, "GPUNode", node)
        self._recorder.record(gpu_node, "GpuCeilingChanged", f"GPU {uuid}: {text}", action="Watching", warning=True)

    def unhealthy(self, holding: "Holding", text: str) -> None:
        """A pod holds a GPU that has become unfit for work."""
        from tangram.cluster.events import Regarding

        pod = Regarding("v1", "Pod", holding.pod, holding.namespace, holding.pod_uid)
        self._recorder.record(pod, "GpuUnhealthy", text, action="Watching", warning=True)
