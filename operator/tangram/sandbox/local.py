"""Start the servers of a sandbox on this machine, one after the other, each when the one before answers."""

import contextlib
import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from tangram.errors import NotReachable, SandboxError
from tangram.sandbox.certificates import Certificates, make_certificates
from tangram.sandbox.client import check_port, free_ports, get
from tangram.sandbox.processes import IDENTITY_VARIABLE, Process, start, stop, tied_to_us
from tangram.sandbox.servers import (
    Layout,
    Ports,
    apiserver_arguments,
    controller_manager_arguments,
    etcd_arguments,
    kwok_arguments,
    scheduler_arguments,
    write_credentials,
)
from tangram.sandbox.state import State, save_state

Report = Callable[[str], None]
_ATTEMPTS = 5
_PATIENCE_SECONDS = 120.0
_POLL_SECONDS = 0.05


@dataclass(frozen=True)
class Options:
    """How the servers are started."""

    port: int | None = None
    """Port of the API server; None for any free one."""
    fsync: bool = True
    """Whether etcd waits for the disk; without, a power cut may lose the sandbox, and tests are quicker."""
    tied_to_parent: bool = False
    """Whether the servers are killed when the thread that starts them ends (Linux)."""
    programs: Sequence[str] = ()
    """Optional servers to start as well."""
    audit: bool = False
    """Whether the API server records all requests in its audit log."""


class _ServerDied(SandboxError):
    """A server ended while it was being waited for."""

    def __init__(self, process: Process) -> None:
        self.port_taken = "address already in use" in process.last_words(count=50)
        super().__init__(f"{process.name} died at start: {process.last_words() or f'its log {process.log} is empty'}")


class Launcher:
    """One start of one sandbox: what it starts, it writes down before it goes on."""

    def __init__(self, folder: Path, state: State, options: Options, report: Report) -> None:
        self._layout = Layout(folder)
        self._state = state
        self._options = options
        self._report = report
        self._begun = time.monotonic()

    def launch(self) -> State:
        """Start everything and return the record once the cluster can be used.

        A port that somebody else took in the meantime costs another attempt. Raises ``SandboxError`` when a server
        dies or does not answer in time; what was started is then in the record, for the caller to stop.
        """
        if self._options.port is not None:
            check_port(self._options.port)
        self._layout.logs.mkdir(parents=True, exist_ok=True)
        keys = make_certificates(self._layout.certificates)
        for attempt in range(1, _ATTEMPTS + 1):
            numbers = free_ports(3)
            ports = Ports(self._options.port or numbers[0], numbers[1], numbers[2])
            try:
                self._start_store(keys, ports)
            except _ServerDied as death:
                if not death.port_taken or attempt == _ATTEMPTS:
                    raise
                self._report("a port was taken by somebody else meanwhile: trying others")
                stop(self._state.processes)
                self._note(processes=[])
                shutil.rmtree(self._layout.etcd_data, ignore_errors=True)
            else:
                break
        self._start_actors(keys)
        self._note(ready=True)
        return self._state

    def _start_store(self, keys: Certificates, ports: Ports) -> None:
        server = f"https://127.0.0.1:{ports.api}"
        write_credentials(self._layout, keys, server)
        self._note(server=server, ports=msgspec.to_builtins(ports))
        etcd_url = f"https://127.0.0.1:{ports.etcd_client}"
        client = (keys.etcd_client, keys.etcd_client_key)
        self._start("etcd", etcd_arguments(self._layout, keys, ports, fsync=self._options.fsync))
        self._wait(
            "etcd",
            lambda: get(etcd_url, "/health", ca_file=keys.etcd_authority, credentials=client)[0] == 200,
        )
        self._start("kube-apiserver", apiserver_arguments(self._layout, keys, ports, audit=self._options.audit))
        self._wait("kube-apiserver", lambda: self._get("/readyz") == 200)

    def _start_actors(self, keys: Certificates) -> None:
        self._start("kube-controller-manager", controller_manager_arguments(self._layout, keys))
        self._start("kwok", kwok_arguments(self._layout))
        if "kube-scheduler" in self._options.programs:
            self._start("kube-scheduler", scheduler_arguments(self._layout))
        # Pods can be created in a namespace once it has its service account and its root certificate.
        namespace = "/api/v1/namespaces/default"
        self._wait(
            "kube-controller-manager",
            lambda: (
                self._get(f"{namespace}/serviceaccounts/default") == 200
                and self._get(f"{namespace}/configmaps/kube-root-ca.crt") == 200
            ),
        )

    def _get(self, path: str) -> int:
        authority, token = self._layout.certificates / "ca.crt", self._layout.admin_token.read_text()
        return get(self._state.server, path, ca_file=authority, credentials=token)[0]

    def _start(self, name: str, arguments: Sequence[str]) -> None:
        # A home of its own keeps the user's configuration files out, an environment of its own the user's settings.
        environment = {
            "HOME": str(self._layout.folder),
            "PATH": os.environ.get("PATH", os.defpath),
            IDENTITY_VARIABLE: self._state.identity,
        }
        command: Sequence[str] = [self._state.programs[name], *arguments]
        if self._options.tied_to_parent:
            command = tied_to_us(command)
        process = start(name, command, self._layout.logs / f"{name}.log", environment=environment)
        self._note(processes=[*self._state.processes, process])

    def _wait(self, name: str, ready: Callable[[], bool]) -> None:
        """Ask until ``ready``, while all that was started so far lives."""
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while time.monotonic() < deadline:
            with contextlib.suppress(NotReachable):
                if ready():
                    self._report(f"{name} is ready after {time.monotonic() - self._begun:.1f} s")
                    return
            for process in self._state.dead:
                raise _ServerDied(process)
            time.sleep(_POLL_SECONDS)
        words = next(process.last_words() for process in self._state.processes if process.name == name)
        raise SandboxError(f"{name} is not ready after {_PATIENCE_SECONDS:.0f} s: {words or 'its log is empty'}")

    def _note(self, **changes: object) -> None:
        self._state = msgspec.structs.replace(self._state, **changes)
        save_state(self._layout.folder, self._state)
