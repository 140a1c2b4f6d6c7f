"""MPS daemons as real processes of the project's fake: killed, hung, left behind, unwanted."""

import asyncio
import os
import shutil
import signal
import stat
import subprocess
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tests.node.kubelet import FakeKubelet
from tests.waiting import eventually, eventually_async

from tangram.cli.processes import run_until_signal
from tangram.cluster.backoff import Backoff
from tangram.errors import NotReachable
from tangram.node.gpus import Condition, Gpu, Health, Holding, Isolation
from tangram.node.mps import Daemon, Daemons, Times
from tangram.node.podresources import PodResources
from tangram.sandbox.mps import NAME, install

A = Gpu(uuid="GPU-a", index=0, model="A100", memory_mib=40960, compute_capability=(8, 0))
B = Gpu(uuid="GPU-b", index=1, model="A100", memory_mib=40960, compute_capability=(8, 0))
OLD = Gpu(uuid="GPU-p", index=2, model="P100", memory_mib=16384, compute_capability=(6, 0))


@pytest.fixture
def root() -> Iterator[Path]:
    """A short path: the name of a Unix socket has at most 107 characters."""
    folder = Path(tempfile.mkdtemp(prefix="mps-"))
    yield folder
    eventually(lambda: processes(folder) == [], "all programs to have ended", why=lambda: processes(folder))
    shutil.rmtree(folder)


@pytest.fixture
def program(tmp_path: Path) -> Path:
    return install(tmp_path / "bin")


def processes(root: Path) -> list[int]:
    """Processes of daemons below this root."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                environment = (process / "environ").read_bytes()
                if f"CUDA_MPS_PIPE_DIRECTORY={root}/".encode() in environment and (process / "cmdline").read_bytes():
                    found.append(int(process.name))
            except OSError:
                continue
    return found


def control_pid(root: Path, uuid: str) -> int:
    return int((root / uuid / "pipe" / f"{NAME}.pid").read_text())


@asynccontextmanager
async def running(daemons: Daemons) -> AsyncIterator[None]:
    task = asyncio.create_task(daemons.run())
    try:
        yield
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def made(program: Path, root: Path) -> Daemons:
    return Daemons(lambda: Backoff(first=0.01, cap=0.1), str(program), root, Times(interval=0.05, patience=2.0))


def up(daemons: Daemons) -> Callable[[], bool]:
    return lambda: bool(daemons.problems()) and not any(daemons.problems().values())


async def test_each_gpu_has_a_daemon_that_sees_it_alone_and_they_end_with_the_agent(program: Path, root: Path) -> None:
    daemons = made(program, root)
    daemons.want(Isolation.MPS, (A, B))
    assert set(daemons.problems().values()) == {"its MPS daemon has not started yet"}
    async with running(daemons):
        await eventually_async(up(daemons))
        for uuid in ("GPU-a", "GPU-b"):
            assert f"for devices {uuid}\n" in (root / uuid / "log/control.log").read_text()
        assert control_pid(root, "GPU-a") != control_pid(root, "GPU-b")
        assert stat.S_IMODE((root / "shm").stat().st_mode) == 0o1777
    assert processes(root) == []


async def test_a_killed_daemon_is_started_again_and_the_folder_that_containers_mount_stays(
    program: Path, root: Path
) -> None:
    daemons = made(program, root)
    daemons.want(Isolation.MPS, (A,))
    async with running(daemons):
        await eventually_async(up(daemons))
        before, folder = control_pid(root, "GPU-a"), (root / "GPU-a/pipe").stat().st_ino
        os.kill(before, signal.SIGKILL)
        await eventually_async(lambda: not up(daemons)())
        await eventually_async(up(daemons))
        assert control_pid(root, "GPU-a") != before
        assert (root / "GPU-a/pipe").stat().st_ino == folder


@pytest.mark.slow
async def test_a_hung_daemon_is_killed_and_its_gpu_is_not_given_out_meanwhile(program: Path, root: Path) -> None:
    daemons = made(program, root)
    daemons.want(Isolation.MPS, (A,))
    healthy = {"GPU-a": Condition(Health.HEALTHY, at_risk="rising heat")}
    async with running(daemons):
        await eventually_async(up(daemons))
        assert daemons.conditions(healthy) == healthy
        before = control_pid(root, "GPU-a")
        os.kill(before, signal.SIGSTOP)
        await eventually_async(lambda: not up(daemons)())
        told = daemons.conditions(healthy)["GPU-a"]
        assert told.health is Health.DEGRADED
        assert "MPS daemon" in told.reason
        assert told.at_risk == "rising heat"
        await eventually_async(up(daemons))
        assert before not in processes(root)


async def test_what_the_probe_found_wrong_stays_the_reason(program: Path, root: Path) -> None:
    daemons = made(program, root)
    daemons.want(Isolation.MPS, (A,))
    lost = {"GPU-a": Condition(Health.UNHEALTHY, "fell off the bus")}
    assert daemons.conditions(lost) == lost


async def test_a_daemon_that_an_agent_before_left_is_taken_over_with_its_tenants(program: Path, root: Path) -> None:
    (root / "GPU-a/pipe").mkdir(parents=True)
    (root / "GPU-a/log").mkdir()
    environment = {
        **os.environ,
        "CUDA_VISIBLE_DEVICES": "GPU-a",
        "CUDA_MPS_PIPE_DIRECTORY": str(root / "GPU-a/pipe"),
        "CUDA_MPS_LOG_DIRECTORY": str(root / "GPU-a/log"),
    }
    left = await asyncio.create_subprocess_exec(program, "-f", env=environment, start_new_session=True)
    await eventually_async((root / "GPU-a/pipe" / f"{NAME}.pid").exists)
    daemons = made(program, root)
    daemons.want(Isolation.MPS, (A,))
    async with running(daemons):
        await eventually_async(up(daemons))
        assert control_pid(root, "GPU-a") == left.pid
    assert await left.wait() is not None


async def test_a_daemon_ends_with_its_servers_when_its_gpu_is_not_wanted_any_more(program: Path, root: Path) -> None:
    daemons = made(program, root)
    daemons.want(Isolation.MPS, (A, B))
    async with running(daemons):
        await eventually_async(up(daemons))
        asked = Daemon("GPU-a", str(program), root, Backoff(), Times(1.0))
        await asked.ask("start_server -uid 0")
        (server,) = await asked.servers()
        assert server in processes(root)
        daemons.want(Isolation.MPS, (B,))
        await eventually_async(
            lambda: not any(str(root / "GPU-a") in text for text in map(environment_of, processes(root)))
        )
        assert daemons.problems() == {"GPU-b": ""}


def environment_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/environ").read_text(errors="replace")
    except OSError:
        return ""


async def test_only_gpus_that_can_limit_clients_get_a_daemon_and_only_in_this_mode(program: Path, root: Path) -> None:
    daemons = made(program, root)
    daemons.want(Isolation.MPS, (A, OLD))
    assert set(daemons.problems()) == {"GPU-a"}
    daemons.want(Isolation.TIME_SLICE, (A, OLD))
    assert daemons.problems() == {}


async def test_without_the_program_the_reason_is_one_sentence(root: Path) -> None:
    daemons = Daemons(Backoff, str(root / "missing"), root)
    daemons.want(Isolation.MPS, (A,))
    with pytest.raises(NotReachable, match="is not there: the NVIDIA container runtime brings it"):
        await daemons.run()
    assert "is not there: the NVIDIA container runtime brings it" in daemons.conditions({})["GPU-a"].reason


async def test_a_program_that_ends_at_once_is_tried_again_and_said(tmp_path: Path, root: Path) -> None:
    broken = tmp_path / NAME
    broken.write_text("#!/bin/sh\nexit 7\n")
    broken.chmod(0o755)
    daemons = made(broken, root)
    daemons.want(Isolation.MPS, (A,))
    async with running(daemons):
        await eventually_async(lambda: "ended with code 7" in daemons.problems()["GPU-a"])


async def test_a_pid_file_that_a_tenant_wrote_kills_nobody(program: Path, root: Path) -> None:
    """Containers have the folder mounted and may be root in it."""
    bystander = await asyncio.create_subprocess_exec("sleep", "60")
    daemons = made(program, root)
    daemons.want(Isolation.MPS, (A,))
    async with running(daemons):
        await eventually_async(up(daemons))
        daemon = control_pid(root, "GPU-a")
        (root / "GPU-a/pipe" / f"{NAME}.pid").write_text(str(bystander.pid))
        os.kill(daemon, signal.SIGKILL)
        await eventually_async(lambda: not up(daemons)())
        await eventually_async(up(daemons))
    assert bystander.returncode is None
    bystander.kill()
    await bystander.wait()


async def limits(program: Path, root: Path) -> tuple[str, str]:
    """What the daemon of GPU-a gives any client: percent and memory."""
    daemon = Daemon("GPU-a", str(program), root, Backoff())
    percent = await daemon.ask("get_default_active_thread_percentage")
    return percent, await daemon.ask("get_default_device_pinned_mem_limit 0")


async def reaches(program: Path, root: Path, wanted: tuple[str, str]) -> None:
    async def reached() -> bool:
        return await limits(program, root) == wanted

    await eventually_async(reached)


async def reaches_when_up(daemons: Daemons, program: Path, root: Path, wanted: tuple[str, str]) -> None:
    await eventually_async(up(daemons))
    await reaches(program, root, wanted)


def held(share: int, memory_mib: int = 0, uuid: str = "GPU-a") -> Holding:
    return Holding(f"uid-{share}", "team", f"pod-{share}", "main", uuid, share, memory_mib)


async def test_no_client_gets_more_than_the_largest_part_that_somebody_holds(program: Path, root: Path) -> None:
    daemons = Daemons(lambda: Backoff(0.01, 0.1), str(program), root, Times(0.05, 2.0, 0.0))
    daemons.want(Isolation.MPS, (A,))
    async with running(daemons):
        await eventually_async(up(daemons))
        assert await limits(program, root) == ("100.0", "0G")
        daemons.apply_holdings((A,), (held(30), held(50, 8192), held(100), held(70, uuid="GPU-b")))
        await reaches(program, root, ("50.0", "12288M"))
        daemons.apply_holdings((A,), (held(30),))
        await reaches(program, root, ("30.0", "12288M"))
        daemons.apply_holdings((A,), ())
        await reaches(program, root, ("1.0", "1M"))


async def test_servers_that_run_are_told_too(program: Path, root: Path) -> None:
    daemons = Daemons(lambda: Backoff(0.01, 0.1), str(program), root, Times(0.05, 2.0, 0.0))
    daemons.want(Isolation.MPS, (A,))
    async with running(daemons):
        await eventually_async(up(daemons))
        asked = Daemon("GPU-a", str(program), root, Backoff())
        await asked.ask("start_server -uid 0")
        (server,) = await asked.servers()
        daemons.apply_holdings((A,), (held(30),))
        await reaches(program, root, ("30.0", "12288M"))
        assert await asked.ask(f"get_active_thread_percentage {server}") == "30.0"
        assert await asked.ask(f"get_device_pinned_mem_limit {server} 0") == "12288M"


async def test_a_server_that_started_since_the_last_look_is_told_too(program: Path, root: Path) -> None:
    daemons = Daemons(lambda: Backoff(0.01, 0.1), str(program), root, Times(interval=60.0, patience=20.0))
    daemons.want(Isolation.MPS, (A,))
    daemons.apply_holdings((A,), (held(30),))
    async with running(daemons):
        await eventually_async(up(daemons))
        asked = Daemon("GPU-a", str(program), root, Backoff())
        await asked.ask("set_default_active_thread_percentage 10\nstart_server -uid 0")
        (server,) = await asked.servers()
        assert await asked.ask(f"get_active_thread_percentage {server}") == "10.0"
        await daemons.raise_ceiling(A, 50, 8192)
        assert await asked.ask(f"get_active_thread_percentage {server}") == "50.0"
        assert await asked.ask(f"get_device_pinned_mem_limit {server} 0") == "12288M"


async def test_room_is_made_before_a_container_starts_and_not_taken_back_at_once(program: Path, root: Path) -> None:
    """Who was given a part a moment ago is not among the holdings yet, and its client keeps what it starts with."""
    daemons = made(program, root)  # of the usual grace
    daemons.want(Isolation.MPS, (A,))
    daemons.apply_holdings((A,), (held(30),))
    async with running(daemons):
        await eventually_async(up(daemons))
        await daemons.raise_ceiling(A, 50, 8192)
        assert await limits(program, root) == ("50.0", "12288M")
        await daemons.raise_ceiling(A, 20, 0)
        assert await limits(program, root) == ("50.0", "12288M")
        daemons.apply_holdings((A,), (held(30),))
        assert await limits(program, root) == ("50.0", "12288M")


async def test_a_kubelet_that_forgets_its_holders_for_a_moment_takes_nothing_away(program: Path, root: Path) -> None:
    daemons = Daemons(lambda: Backoff(0.01, 0.1), str(program), root, Times(0.05, 2.0, 0.1))
    daemons.want(Isolation.MPS, (A,))
    daemons.apply_holdings((A,), (held(30),))
    async with running(daemons):
        await reaches_when_up(daemons, program, root, ("30.0", "12288M"))
        daemon, _ = daemons._daemons["GPU-a"]
        daemon._grace = 600.0  # on a busy machine the question alone may take longer than a short one
        daemons.apply_holdings((A,), ())
        assert await limits(program, root) == ("30.0", "12288M")
        daemons.apply_holdings((A,), (held(50),))
        await reaches(program, root, ("50.0", "20480M"))


async def test_while_holdings_are_not_known_nobody_is_limited(program: Path, root: Path) -> None:
    daemons = made(program, root)
    daemons.want(Isolation.MPS, (A,))
    async with running(daemons):
        await eventually_async(up(daemons))
        await daemons.raise_ceiling(A, 20, 0)
        assert await limits(program, root) == ("100.0", "40960M")


async def test_without_its_daemon_no_part_of_a_gpu_is_given_and_whole_ones_are(program: Path, root: Path) -> None:
    daemons = made(program, root)
    daemons.want(Isolation.MPS, (A, OLD))
    with pytest.raises(NotReachable, match="GPU GPU-a cannot be shared now: its MPS daemon has not started yet"):
        await daemons.raise_ceiling(A, 30, 0)
    await daemons.raise_ceiling(A, 100, 0)
    await daemons.raise_ceiling(OLD, 30, 0)  # in turns, without MPS


def breakable(program: Path) -> Path:
    """A file whose presence makes the control program end with a signal, once."""
    whole, broken = program.with_name("whole"), program.with_name("broken")
    program.rename(whole)
    program.write_text(f'#!/bin/sh\n[ $# = 0 ] && rm {broken} 2>&- && kill -ABRT $$\nexec {whole} "$@"\n')
    program.chmod(0o755)
    return broken


async def test_a_daemon_that_cannot_be_told_for_a_moment_is_told_again(program: Path, root: Path) -> None:
    """The kubelet rejects a pod for good when it is refused once."""
    broken = breakable(program)
    daemons = Daemons(lambda: Backoff(0.01, 0.1), str(program), root, Times(interval=60.0, patience=20.0))
    daemons.want(Isolation.MPS, (A,))
    daemons.apply_holdings((A,), (held(30),))
    async with running(daemons):
        await eventually_async(up(daemons))
        broken.touch()
        await daemons.raise_ceiling(A, 50, 0)
        assert not broken.exists()
        assert await limits(program, root) == ("50.0", "20480M")


async def test_room_is_made_as_soon_as_a_killed_daemon_is_up_again(program: Path, root: Path) -> None:
    daemons = Daemons(lambda: Backoff(0.01, 0.1), str(program), root, Times(interval=0.05, patience=20.0))
    daemons.want(Isolation.MPS, (A,))
    daemons.apply_holdings((A,), (held(30),))
    async with running(daemons):
        await eventually_async(up(daemons))
        os.kill(control_pid(root, "GPU-a"), signal.SIGKILL)
        await eventually_async(lambda: not up(daemons)())
        await daemons.raise_ceiling(A, 50, 0)
        assert await limits(program, root) == ("50.0", "20480M")


@pytest.mark.slow
async def test_a_daemon_that_does_not_come_back_in_time_is_the_reason_of_the_refusal(program: Path, root: Path) -> None:
    daemons = Daemons(lambda: Backoff(60.0, 60.0), str(program), root, Times(interval=0.05, patience=2.0))
    daemons.want(Isolation.MPS, (A,))
    async with running(daemons):
        await eventually_async(up(daemons))
        os.kill(control_pid(root, "GPU-a"), signal.SIGKILL)
        await eventually_async(lambda: not up(daemons)())
        with pytest.raises(NotReachable, match="GPU GPU-a cannot be shared now: its MPS daemon is not up: it ended"):
            await daemons.raise_ceiling(A, 50, 0)


def test_the_fake_speaks_the_tool_s_commands_and_says_that_it_is_a_fake(program: Path, root: Path) -> None:
    environment = {**os.environ, "CUDA_MPS_PIPE_DIRECTORY": f"{root}/p", "CUDA_MPS_LOG_DIRECTORY": f"{root}/p"}
    (root / "p").mkdir()

    def control(*arguments: str, told: str = "") -> tuple[int, str]:
        done = subprocess.run(
            [program, *arguments], input=told, env=environment, capture_output=True, text=True, check=False, timeout=30
        )
        return done.returncode, done.stdout.strip()

    assert control(told="get_server_list\n") == (1, "Cannot find MPS control daemon process")
    assert control("-v") == (0, "a fake of tangram's sandbox; it controls no GPU")
    subprocess.run([program, "-d"], env=environment, check=True, timeout=30, stdout=subprocess.DEVNULL)
    assert control("-d") == (1, "An instance of this daemon is already running")
    assert control(told="get_default_active_thread_percentage") == (0, "100.0")
    assert control(told="set_default_active_thread_percentage 50") == (0, "50.0")
    assert control(told="set_default_active_thread_percentage many") == (0, "many: not a number")
    assert control(told="set_default_device_pinned_mem_limit 0 8192M\nget_default_device_pinned_mem_limit 0") == (
        0,
        "8192M",
    )
    assert control(told="start_server -uid 1000") == (0, "")
    server = control(told="get_server_list")[1]
    assert control(told=f"set_active_thread_percentage {server} 30\nget_active_thread_percentage {server}") == (
        0,
        "30.0\n30.0",
    )
    assert control(told=f"set_device_pinned_mem_limit {server} 0 1G\nget_device_pinned_mem_limit {server} 0") == (
        0,
        "1G",
    )
    assert "THIS IS A FAKE" in (root / "p/control.log").read_text()
    assert control(told="quit") == (0, "")
    assert control(told="get_server_list")[0] == 1


async def test_a_program_that_does_not_listen_to_its_command_is_no_surprise(tmp_path: Path) -> None:
    daemon = Daemon("GPU-1", str(quick(tmp_path)), tmp_path, Backoff())
    assert {await daemon.ask("get_server_list") for _ in range(40)} == {""}


def test_beside_busy_grpc_every_question_reaches_its_program(tmp_path: Path, folder: Path) -> None:
    """Handlers that gRPC has for fork() kill children; so the agent's loop must not start programs with it."""
    answers: list[str] = []

    async def ask_often() -> None:
        kubelet = FakeKubelet(folder)
        await kubelet.start()
        async with PodResources(kubelet.pod_resources) as resources:
            listing = [asyncio.create_task(list_often(resources)) for _ in range(4)]
            daemon = Daemon("GPU-1", str(quick(tmp_path)), tmp_path, Backoff())
            answers.extend([await daemon.ask("get_server_list") for _ in range(300)])
            for one in listing:
                one.cancel()
            await asyncio.gather(*listing, return_exceptions=True)
        await kubelet.stop()

    async def list_often(resources: PodResources) -> None:
        while True:
            await resources.list()

    run_until_signal(ask_often(), starts_programs=True)
    assert answers == [""] * 300


def quick(folder: Path) -> Path:
    """A program that has nothing to say and does not listen."""
    program = folder / "quick"
    program.write_text("#!/bin/sh\nexit 0\n")
    program.chmod(0o755)
    return program
