"""Bring local clusters up, find them again, take them down: the sandbox for other code.

::

    with_nodes = up("demo", Wish(nodes=parse_nodes("8x8xA100")))
    with_nodes.kubectl("get", "nodes")
    down("demo")
"""

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import msgspec

from tangram.errors import InvalidInput, NotReachable, SandboxError
from tangram.sandbox import kind, packages, realnode
from tangram.sandbox.binaries import build
from tangram.sandbox.client import count_nodes
from tangram.sandbox.local import Launcher, Options
from tangram.sandbox.node_files import NodeLayout
from tangram.sandbox.nodes import NodeSpec, create_nodes_blocking, node_object
from tangram.sandbox.places import check_name, default_state_root, locked
from tangram.sandbox.processes import find_strays, stop
from tangram.sandbox.realnode import RealNode
from tangram.sandbox.recipes import DEFAULT_PROGRAMS, MODULES, check_optional
from tangram.sandbox.servers import Layout
from tangram.sandbox.state import FILE, State, load_state, save_state

Report = Callable[[str], None]
Furnish = Callable[["Sandbox"], "Sandbox"]
PROVIDERS = ("local", "kind")


@dataclass(frozen=True)
class Sandbox:
    """A handle on one sandbox; it holds nothing open, and may outlive the sandbox."""

    state_dir: Path
    """The one folder that holds all of it."""
    state: State

    @property
    def name(self) -> str:
        """What the sandbox is called."""
        return self.state.name

    @property
    def server(self) -> str:
        """URL of the API server."""
        return self.state.server

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig."""
        return Layout(self.state_dir).kubeconfig()

    @property
    def ca_file(self) -> Path:
        """The authority that signed the API server's certificate (provider ``local``)."""
        return Layout(self.state_dir).certificates / "ca.crt"

    @property
    def audit_log(self) -> Path:
        """Who asked what of the API server, one JSON object a line; only with ``Wish.audit``."""
        return Layout(self.state_dir).audit_log

    @property
    def admin_token(self) -> str:
        """The administrator's bearer token (provider ``local``)."""
        return Layout(self.state_dir).admin_token.read_text()

    @property
    def real_node(self) -> RealNode:
        """The node that runs real containers; raises ``SandboxError`` when the sandbox has none."""
        if not self.state.real_node:
            raise SandboxError(f"sandbox {self.name} was started without a real node")
        return RealNode(NodeLayout(self.state_dir))

    @property
    def running(self) -> bool:
        """Whether the start came to its end and every server still runs."""
        if not self.state.ready or self.state.dead:
            return False
        return self.state.provider != "kind" or kind.exists(self.name)

    def kubectl(
        self,
        *arguments: str,
        input: str | None = None,  # noqa: A002 - named as in subprocess.run
        check: bool = True,
    ) -> "subprocess.CompletedProcess[str]":
        """Run kubectl as the administrator; raises ``SandboxError`` when it fails, unless ``check`` is off."""
        return self._run("kubectl", arguments, input, check=check)

    def helm(
        self,
        *arguments: str,
        input: str | None = None,  # noqa: A002 - named as in subprocess.run
        check: bool = True,
    ) -> "subprocess.CompletedProcess[str]":
        """Run helm as the administrator; raises ``SandboxError`` when it fails, unless ``check`` is off."""
        return self._run("helm", arguments, input, check=check)

    def program(self, name: str) -> Path:
        """Path of one of the sandbox's programs; raises ``SandboxError`` when it came without."""
        try:
            return Path(self.state.programs[name])
        except KeyError:
            raise SandboxError(f"sandbox {self.name} was started without {name}") from None

    def create_nodes(self, nodes: Sequence[NodeSpec]) -> int:
        """Create fake nodes and return how many are new (provider ``local``); see ``nodes.create_nodes``."""
        return create_nodes_blocking(self.server, self.ca_file, self.admin_token, nodes)

    def count_nodes(self) -> int:
        """How many nodes there are; raises ``NotReachable`` (provider ``local``)."""
        return count_nodes(self.server, ca_file=self.ca_file, token=self.admin_token)

    def _run(
        self, program: str, arguments: Sequence[str], text: str | None, *, check: bool
    ) -> "subprocess.CompletedProcess[str]":
        home = self.state_dir / "home"
        environment = os.environ | {
            "KUBECONFIG": str(self.kubeconfig),
            "KUBECACHEDIR": str(home / "kubectl"),  # else kubectl mixes up sandboxes that had the same port
            "HELM_CACHE_HOME": str(home / "helm-cache"),
            "HELM_CONFIG_HOME": str(home / "helm-config"),
            "HELM_DATA_HOME": str(home / "helm-data"),
        }
        command = [str(self.program(program)), *arguments]
        answer = subprocess.run(command, input=text, capture_output=True, text=True, env=environment, check=False)
        if check and answer.returncode != 0:
            shown = " ".join([program, *arguments])
            raise SandboxError(f"{shown} failed: {answer.stderr.strip() or answer.stdout.strip()}")
        return answer


@dataclass(frozen=True, slots=True)
class Wish:
    """What a sandbox is to be."""

    nodes: Sequence[NodeSpec] = ()
    """Fake nodes, created where missing, also on a running sandbox."""
    provider: str = "local"
    real_node: bool = False
    """Also a node that runs real containers (see ``realnode``), made where missing."""
    programs: Sequence[str] = ()
    """Optional servers to run as well (``kube-scheduler``)."""
    port: int | None = None
    fsync: bool = True
    audit: bool = False
    """The API server records who asked what of it (see ``Sandbox.audit_log``)."""
    tied_to_parent: bool = False
    """The kernel ends it with the thread that starts it (Linux)."""


_PLAIN = Wish()


def up(
    name: str = "default",
    wish: Wish = _PLAIN,
    *,
    state_root: Path | None = None,
    report: Report = lambda _: None,
) -> Sandbox:
    """Start a sandbox, or find that it runs already, and return a handle on it.

    ``state_root`` is the folder of all sandboxes, by default the user's state folder.
    Whatever ends the start, Ctrl-C included, leaves no process and no file behind. Raises ``InvalidInput``,
    ``MissingTool`` and ``SandboxError``, each with one line fit for a terminal.
    """
    check_name(name)
    wanted = _check_choice(wish)
    for spec in wish.nodes:
        node_object(spec)  # an unknown model is found before anything starts
    root = (state_root or default_state_root()).absolute()
    folder = root / name
    _make_root(root)
    if wish.provider == "kind":
        kind.check_engine()
    if wish.real_node:
        realnode.check(folder)
    paths = build(wanted, report=report)
    node_programs = {"kubelet": paths["kubelet"]} | packages.fetch(report=report) if wish.real_node else {}
    furnish = partial(_furnish, wish.nodes, node_programs, wish.tied_to_parent, report)
    with locked(root / f"{name}.lock", lambda: report(f"sandbox {name} is being started or stopped: waiting")):
        running = _clear_unless_running(folder, report)
        if running is None:
            options = Options(wish.port, wish.fsync, wish.tied_to_parent, tuple(wish.programs), wish.audit)
            state = _new_state(name, wish.provider, paths)
            running = _start(folder, state, options, furnish, report)
            report(f"sandbox {name} runs at {running.server or kind.cluster_name(name)}")
        else:
            report(f"sandbox {name} is already running at {running.server or kind.cluster_name(name)}")
            running = furnish(running)
    return running


def down(name: str = "default", *, state_root: Path | None = None, report: Report = lambda _: None) -> bool:
    """Stop a sandbox and remove all of it; False when there was none.

    Raises ``SandboxError`` when a process cannot be stopped; its record then stays.
    """
    check_name(name)
    root = (state_root or default_state_root()).absolute()
    if not (root / name).exists():
        return False
    with locked(root / f"{name}.lock", lambda: report(f"sandbox {name} is being started or stopped: waiting")):
        state = load_state(root / name)
        if state is None:
            return False
        _remove(root / name, state)
    report(f"sandbox {name} is stopped and removed")
    return True


def find(name: str = "default", *, state_root: Path | None = None) -> Sandbox | None:
    """A handle on a sandbox that was started, running or not; None when there is none."""
    folder = (state_root or default_state_root()).absolute() / check_name(name)
    state = load_state(folder)
    return Sandbox(folder, state) if state else None


def find_all(*, state_root: Path | None = None) -> list[Sandbox]:
    """Every sandbox that was started, by name."""
    root = (state_root or default_state_root()).absolute()
    folders = sorted(entry.parent for entry in root.glob(f"*/{FILE}"))
    return [Sandbox(folder, state) for folder in folders if (state := load_state(folder))]


def _check_choice(wish: Wish) -> tuple[str, ...]:
    """The programs needed; raises ``InvalidInput`` for what cannot be had."""
    if wish.provider not in PROVIDERS:
        raise InvalidInput("sandbox", "--provider", wish.provider, ", ".join(PROVIDERS))
    if wish.port is not None and not 1 <= wish.port <= 65535:
        raise InvalidInput("sandbox", "--port", wish.port, "1 to 65535")
    chosen = check_optional(wish.programs)
    if wish.provider == "local":
        return (*DEFAULT_PROGRAMS, *chosen, *(("kubelet",) if wish.real_node else ()))
    options = {"--nodes": wish.nodes, "--real-node": wish.real_node, "--with": wish.programs, "--port": wish.port}
    for option, value in options.items():
        if value:
            raise InvalidInput("sandbox", option, "given", "only with --provider local")
    return ("kubectl", "helm")


def _make_root(root: Path) -> None:
    try:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise SandboxError(f"the state folder {root} cannot be made: {error.strerror}") from error


def _new_state(name: str, provider: str, paths: dict[str, Path]) -> State:
    versions = {module.name: module.version for module in MODULES if set(module.programs) & set(paths)}
    return State(
        name=name,
        provider=provider,
        identity=secrets.token_hex(16),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        programs={program: str(path) for program, path in paths.items()},
        versions=versions,
    )


def _clear_unless_running(folder: Path, report: Report) -> Sandbox | None:
    """The sandbox when it runs; else what is left of an earlier one is cleared away."""
    state = load_state(folder)
    if state is None:
        if folder.exists() and any(folder.iterdir()):
            raise SandboxError(f"{folder} is not empty and not a sandbox: choose another --name or --state-dir")
        return None
    sandbox = Sandbox(folder, state)
    if sandbox.running:
        return sandbox
    report(f"sandbox {state.name} had stopped: clearing its remains away")
    _remove(folder, state)
    return None


def _start(folder: Path, state: State, options: Options, furnish: Furnish, report: Report) -> Sandbox:
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        save_state(folder, state)
        if state.provider == "kind":
            kind.create(state.name, Layout(folder).kubeconfig())
            state = msgspec.structs.replace(state, ready=True)
            save_state(folder, state)
            return Sandbox(folder, state)
        sandbox = furnish(Sandbox(folder, Launcher(folder, state, options, report).launch()))
    except BaseException as error:
        with undisturbed():
            _remove(folder, load_state(folder) or state)
        if isinstance(error, OSError):
            raise SandboxError(f"sandbox {state.name} could not be started: {error}") from error
        raise
    return sandbox


def _furnish(
    nodes: Sequence[NodeSpec],
    node_programs: Mapping[str, Path],
    tied_to_parent: bool,
    report: Report,
    sandbox: Sandbox,
) -> Sandbox:
    """Add what nodes are missing; ``node_programs`` are those of the real node, none without one."""
    if nodes:
        report(f"fake nodes: {len(nodes)} asked for, {sandbox.create_nodes(nodes)} created")
    if node_programs:
        realnode.add(sandbox.state_dir, node_programs, tied_to_parent=tied_to_parent, report=report)
    return Sandbox(sandbox.state_dir, load_state(sandbox.state_dir) or sandbox.state)


def _remove(folder: Path, state: State) -> None:
    stop(state.processes)
    stop(find_strays(state.identity))
    realnode.remove_remains(state)
    if state.provider == "kind":
        kind.delete(state.name, Layout(folder).kubeconfig())
    shutil.rmtree(folder, ignore_errors=True)
    if folder.exists():
        raise SandboxError(f"{folder} could not be removed")


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Let the clearing away come to its end: a second Ctrl-C does not break it off."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def dead_servers(sandbox: Sandbox) -> str:
    """One line on the servers that should run and do not; empty when all run."""
    return "; ".join(f"{process.name} died: {process.last_words()}" for process in sandbox.state.dead)


def node_count_text(sandbox: Sandbox) -> str:
    """The number of nodes for a table; a dash when the API server does not answer."""
    if sandbox.state.provider != "local" or not sandbox.state.ready:
        return "-"
    try:
        return str(sandbox.count_nodes())
    except (NotReachable, OSError):
        return "-"
