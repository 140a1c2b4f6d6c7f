"""MPS on a node: real processes of the supervisor and of the project's fake daemon; killed, hung, left, unwanted."""

import asyncio
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest
from tests.node.kubelet import FakeKubelet
from tests.waiting import eventually, eventually_async

from tangram.cli.processes import run_until_signal
from tangram.errors import NotReachable
from tangram.node.gpus import Condition, Gpu, Health, Holding
from tangram.node.mps import supervisor
from tangram.node.mps.control import Ceiling, Control, Reported, Times, _ceilings
from tangram.node.mps.daemons import Daemons, forget_wanted
from tangram.node.podresources import PodResources
from tangram.sandbox.mps import KNOWN, NAME, install

A = Gpu(uuid="GPU-a", index=0, model="A100", memory_mib=40960, compute_capability=(8, 0))
B = Gpu(uuid="GPU-b", index=1, model="A100", memory_mib=40960, compute_capability=(8, 0))
QUICK = Times(interval=0.05, patience=2.0, poll=0.05)
OLD = Gpu(uuid="GPU-p", index=2, model="P100", memory_mib=16384, compute_capability=(6, 0))


@pytest.fixture
def root() -> Iterator[Path]:
    """A short path: the name of a Unix socket has at most 107 characters."""
    folder = Path(tempfile.mkdtemp(prefix="mps-"))
    folder.chmod(0o755)
    yield folder
    eventually(lambda: processes(folder) == [], "all programs to have ended", why=lambda: processes(folder))
    shutil.rmtree(folder)


@pytest.fixture
def program(tmp_path: Path) -> Path:
    return install(tmp_path / "bin")


@contextmanager
def supervised(program: Path, root: Path, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """The supervisor as the chart runs it, but for the size of shared memory and the pauses."""
    words = [sys.executable, "-I", "-S", supervisor.__file__, str(root), str(program), "0", "true", "0.05"]
    process = subprocess.Popen(words, env={**os.environ, **environment})
    try:
        eventually((root / supervisor.STATE).exists, "the supervisor has looked")
        yield process
    finally:
        process.terminate()
        assert process.wait(20) in (0, -signal.SIGKILL)


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
async def followed(daemons: Daemons) -> AsyncIterator[None]:
    """The agent's side, on daemons of whatever supervisor there is."""
    task = asyncio.create_task(daemons.run())
    try:
        yield
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@asynccontextmanager
async def running(daemons: Daemons) -> AsyncIterator[None]:
    """The agent's side, and a supervisor."""
    with supervised(Path(daemons._program), daemons._root):
        async with followed(daemons):
            yield


def made(program: Path, root: Path, times: Times = QUICK) -> Daemons:
    return Daemons(str(program), root, times)


def channel(program: Path, root: Path, uuid: str = "GPU-a") -> Control:
    """Somebody who sends the daemon of a GPU commands, as a tenant may that is root."""
    return Control(uuid, str(program), root / uuid, QUICK)


async def servers(control: Control) -> list[int]:
    return [int(word) for word in (await control.ask("get_server_list")).split()]


def up(daemons: Daemons) -> Callable[[], bool]:
    return lambda: bool(daemons.problems()) and not any(daemons.problems().values())


async def test_each_gpu_has_a_daemon_that_sees_it_alone_and_they_end_with_the_supervisor(
    program: Path, root: Path
) -> None:
    daemons = made(program, root)
    daemons.want((A, B))
    assert set(daemons.problems().values()) == {"its MPS daemon has not started yet"}
    async with running(daemons):
        await eventually_async(up(daemons))
        for uuid in ("GPU-a", "GPU-b"):
            assert f"for devices {uuid}\n" in (root / uuid / "log/control.log").read_text()
            assert stat.S_IMODE((root / uuid / "shm").stat().st_mode) == 0o1777
        assert control_pid(root, "GPU-a") != control_pid(root, "GPU-b")
    assert processes(root) == []


async def test_daemons_and_their_servers_go_on_when_the_agent_ends_and_the_next_one_finds_them(
    program: Path, root: Path
) -> None:
    with supervised(program, root):
        daemons = made(program, root)
        daemons.want((A,))
        async with followed(daemons):
            await eventually_async(up(daemons))
            await channel(program, root).ask("start_server -uid 0")
        before, (server,) = control_pid(root, "GPU-a"), await servers(channel(program, root))
        successor = made(program, root)
        successor.want((A,))
        async with followed(successor):
            await eventually_async(up(successor))
            await eventually_async(lambda: successor.servers() == {server})
        assert control_pid(root, "GPU-a") == before


async def test_without_a_supervisor_the_reason_is_one_sentence_and_no_part_is_given(program: Path, root: Path) -> None:
    daemons = made(program, root)
    daemons.want((A,))
    async with followed(daemons):
        await eventually_async(lambda: daemons.problems() == {"GPU-a": "the MPS supervisor does not run on this node"})
        with pytest.raises(NotReachable, match="cannot be shared now: the MPS supervisor does not run on this node"):
            await daemons.admit(A, 30, 0)


def test_a_second_supervisor_of_a_node_ends_at_once(program: Path, root: Path) -> None:
    with supervised(program, root):
        words = [sys.executable, "-I", "-S", supervisor.__file__, str(root), str(program), "0", "true", "0.05"]
        second = subprocess.run(words, capture_output=True, text=True, check=False, timeout=20)
        assert (second.returncode, second.stderr) == (1, f"another supervisor serves {root}\n")


async def test_servers_of_a_daemon_that_dies_end_with_it_and_nobody_else_s(program: Path, root: Path) -> None:
    daemons = made(program, root)
    daemons.want((A, B))
    async with running(daemons):
        await eventually_async(up(daemons))
        found = {}
        for uuid in ("GPU-a", "GPU-b"):
            await channel(program, root, uuid).ask("start_server -uid 0")
            (found[uuid],) = await servers(channel(program, root, uuid))
        os.kill(control_pid(root, "GPU-a"), signal.SIGKILL)
        await eventually_async(lambda: not alive(found["GPU-a"]))
        await eventually_async(up(daemons))
        assert alive(found["GPU-b"])


async def test_a_daemon_that_does_not_know_several_users_is_started_for_one(program: Path, root: Path) -> None:
    daemons = made(program, root)
    daemons.want((A,))
    with supervised(program, root, **{KNOWN: "one-user"}):
        async with followed(daemons):
            await eventually_async(up(daemons))
            asked = channel(program, root)
            await asked.ask("start_server -uid 0")
            assert (
                await asked.ask("start_server -uid 1000") == "the server of user 0 has clients; user 1000 has to wait"
            )


async def test_tenants_of_several_users_share_a_gpu(program: Path, root: Path) -> None:
    """Their servers run as they do, and find the daemon by folders that they can pass."""
    daemons = made(program, root)
    daemons.want((A,))
    async with running(daemons):
        await eventually_async(up(daemons))
        asked = channel(program, root)
        await asked.ask("start_server -uid 0\nstart_server -uid 1000")
        assert [owner(server) for server in await servers(asked)] == [0, 1000]
        await eventually_async(lambda: len(daemons.servers()) == 2)


async def test_what_stands_in_wanted_is_a_line_or_nothing() -> None:
    text = "GPU-a\t1\n../etc\t1\nGPU-b\tmany\nGPU-c\n\n-f\t1\n" + "GPU-" + "x" * 200 + "\t1\nGPU-d\t2"
    assert supervisor.read_wanted(text) == {"GPU-a": 1, "GPU-d": 2}


async def test_a_node_that_is_shared_otherwise_now_has_no_daemons(program: Path, root: Path) -> None:
    daemons = made(program, root)
    daemons.want((A,))
    with supervised(program, root):
        async with followed(daemons):
            await eventually_async(up(daemons))
        forget_wanted(root)
        await eventually_async(lambda: control_gone(root, "GPU-a"))


def control_gone(root: Path, uuid: str) -> bool:
    return not any(f"{root}/{uuid}/" in environment_of(pid) for pid in processes(root))


def alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False


def owner(pid: int) -> int:
    return Path(f"/proc/{pid}").stat().st_uid


async def test_a_killed_daemon_is_started_again_and_the_folder_that_containers_mount_stays(
    program: Path, root: Path
) -> None:
    daemons = made(program, root)
    daemons.want((A,))
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
    daemons.want((A,))
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
    daemons.want((A,))
    lost = {"GPU-a": Condition(Health.UNHEALTHY, "fell off the bus")}
    assert daemons.conditions(lost) == lost


async def test_a_daemon_ends_with_its_servers_when_its_gpu_is_not_wanted_any_more(program: Path, root: Path) -> None:
    daemons = made(program, root)
    daemons.want((A, B))
    async with running(daemons):
        await eventually_async(up(daemons))
        asked = channel(program, root, "GPU-a")
        await asked.ask("start_server -uid 0")
        (server,) = await servers(asked)
        assert server in processes(root)
        daemons.want((B,))
        await eventually_async(
            lambda: not any(str(root / "GPU-a") in text for text in map(environment_of, processes(root)))
        )
        assert daemons.problems() == {"GPU-b": ""}


def environment_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/environ").read_text(errors="replace")
    except OSError:
        return ""


async def test_only_gpus_that_can_limit_clients_get_a_daemon(program: Path, root: Path) -> None:
    daemons = made(program, root)
    daemons.want((A, OLD))
    assert set(daemons.problems()) == {"GPU-a"}
    daemons.want((OLD,))
    assert daemons.problems() == {}


async def test_without_the_program_the_reason_is_one_sentence(root: Path) -> None:
    daemons = Daemons(str(root / "missing"), root)
    daemons.want((A,))
    with pytest.raises(NotReachable, match="is not there: the NVIDIA container runtime brings it"):
        await daemons.run()
    assert "is not there: the NVIDIA container runtime brings it" in daemons.conditions({})["GPU-a"].reason


async def test_a_program_that_ends_at_once_is_tried_again_and_said(tmp_path: Path, root: Path) -> None:
    broken = tmp_path / NAME
    broken.write_text("#!/bin/sh\nexit 7\n")
    broken.chmod(0o755)
    daemons = made(broken, root)
    daemons.want((A,))
    async with running(daemons):
        await eventually_async(lambda: "ended with code 7" in daemons.problems()["GPU-a"])


async def test_a_pid_file_that_a_tenant_wrote_kills_nobody(program: Path, root: Path) -> None:
    """Containers have the folder mounted and may be root in it."""
    bystander = await asyncio.create_subprocess_exec("sleep", "60")
    daemons = made(program, root)
    daemons.want((A,))
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
    daemon = channel(program, root, "GPU-a")
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
    daemons = made(program, root, Times(0.05, 2.0, 0.0, 0.05))
    daemons.want((A,))
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
    daemons = made(program, root, Times(0.05, 2.0, 0.0, 0.05))
    daemons.want((A,))
    async with running(daemons):
        await eventually_async(up(daemons))
        asked = channel(program, root, "GPU-a")
        await asked.ask("start_server -uid 0")
        (server,) = await servers(asked)
        daemons.apply_holdings((A,), (held(30),))
        await reaches(program, root, ("30.0", "12288M"))
        assert await asked.ask(f"get_active_thread_percentage {server}") == "30.0"
        assert await asked.ask(f"get_device_pinned_mem_limit {server} 0") == "12288M"


async def test_a_server_that_started_since_the_last_look_is_told_too(program: Path, root: Path) -> None:
    daemons = made(program, root, Times(interval=60.0, patience=20.0, poll=0.05))
    daemons.want((A,))
    daemons.apply_holdings((A,), (held(30),))
    async with running(daemons):
        await eventually_async(up(daemons))
        asked = channel(program, root, "GPU-a")
        await asked.ask("set_default_active_thread_percentage 10\nstart_server -uid 0")
        (server,) = await servers(asked)
        assert await asked.ask(f"get_active_thread_percentage {server}") == "10.0"
        await daemons.admit(A, 50, 8192)
        assert await asked.ask(f"get_active_thread_percentage {server}") == "50.0"
        assert await asked.ask(f"get_device_pinned_mem_limit {server} 0") == "12288M"


async def test_room_is_made_before_a_container_starts_and_not_taken_back_at_once(program: Path, root: Path) -> None:
    """Who was given a part a moment ago is not among the holdings yet, and its client keeps what it starts with."""
    daemons = made(program, root)  # of the usual grace
    daemons.want((A,))
    daemons.apply_holdings((A,), (held(30),))
    async with running(daemons):
        await eventually_async(up(daemons))
        await daemons.admit(A, 50, 8192)
        assert await limits(program, root) == ("50.0", "12288M")
        await daemons.admit(A, 20, 0)
        assert await limits(program, root) == ("50.0", "12288M")
        daemons.apply_holdings((A,), (held(30),))
        assert await limits(program, root) == ("50.0", "12288M")


async def test_a_kubelet_that_forgets_its_holders_for_a_moment_takes_nothing_away(program: Path, root: Path) -> None:
    daemons = made(program, root, Times(0.05, 2.0, 0.1, 0.05))
    daemons.want((A,))
    daemons.apply_holdings((A,), (held(30),))
    async with running(daemons):
        await reaches_when_up(daemons, program, root, ("30.0", "12288M"))
        control, _ = daemons._controls["GPU-a"]
        control._times = control._times._replace(
            grace=600.0
        )  # on a busy machine the question alone may take longer than a short one
        daemons.apply_holdings((A,), ())
        assert await limits(program, root) == ("30.0", "12288M")
        daemons.apply_holdings((A,), (held(50),))
        await reaches(program, root, ("50.0", "20480M"))


async def test_while_holdings_are_not_known_nobody_is_limited(program: Path, root: Path) -> None:
    daemons = made(program, root)
    daemons.want((A,))
    async with running(daemons):
        await eventually_async(up(daemons))
        await daemons.admit(A, 20, 0)
        assert await limits(program, root) == ("100.0", "40960M")


async def test_without_its_daemon_no_part_of_a_gpu_is_given_and_whole_ones_are(program: Path, root: Path) -> None:
    daemons = made(program, root)
    daemons.want((A, OLD))
    with pytest.raises(NotReachable, match="GPU GPU-a cannot be shared now: its MPS daemon has not started yet"):
        await daemons.admit(A, 30, 0)
    await daemons.admit(A, 100, 0)
    await daemons.admit(OLD, 30, 0)  # in turns, without MPS


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
    daemons = made(program, root, Times(interval=60.0, patience=20.0, poll=0.05))
    daemons.want((A,))
    daemons.apply_holdings((A,), (held(30),))
    async with running(daemons):
        await eventually_async(up(daemons))
        broken.touch()
        await daemons.admit(A, 50, 0)
        assert not broken.exists()
        assert await limits(program, root) == ("50.0", "20480M")


async def test_room_is_made_as_soon_as_a_killed_daemon_is_up_again(program: Path, root: Path) -> None:
    daemons = made(program, root, Times(interval=0.05, patience=20.0, poll=0.05))
    daemons.want((A,))
    daemons.apply_holdings((A,), (held(30),))
    async with running(daemons):
        await eventually_async(up(daemons))
        os.kill(control_pid(root, "GPU-a"), signal.SIGKILL)
        await eventually_async(lambda: not up(daemons)())
        await daemons.admit(A, 50, 0)
        assert await limits(program, root) == ("50.0", "20480M")


def broken(program: Path) -> None:
    program.write_text("#!/bin/sh\nexit 7\n")


@pytest.mark.slow
async def test_a_daemon_that_does_not_come_back_in_time_is_the_reason_of_the_refusal(program: Path, root: Path) -> None:
    """The kubelet admits no other pod while it waits for an answer: that is waited for once, and then no more."""
    daemons = made(program, root, Times(interval=0.05, patience=1.0, poll=0.05))
    daemons.want((A,))
    async with running(daemons):
        await eventually_async(up(daemons))
        broken(program)
        os.kill(control_pid(root, "GPU-a"), signal.SIGKILL)
        await eventually_async(lambda: not up(daemons)())
        with pytest.raises(NotReachable, match="GPU GPU-a cannot be shared now: its MPS daemon"):
            await daemons.admit(A, 50, 0)
        refused = 0
        async with asyncio.timeout(1.0):  # of which each would have taken two seconds
            while refused < 20:
                with pytest.raises(NotReachable, match="its MPS daemon ended with code 7"):
                    await daemons.admit(A, 50, 0)
                refused += 1


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
    daemon = Control("GPU-1", str(quick(tmp_path)), tmp_path, Times())
    assert {await daemon.ask("get_server_list") for _ in range(40)} == {""}


def test_beside_busy_grpc_every_question_reaches_its_program(tmp_path: Path, folder: Path) -> None:
    """Handlers that gRPC has for fork() kill children; so the agent's loop must not start programs with it."""
    answers: list[str] = []

    async def ask_often() -> None:
        kubelet = FakeKubelet(folder)
        await kubelet.start()
        async with PodResources(kubelet.pod_resources) as resources:
            listing = [asyncio.create_task(list_often(resources)) for _ in range(4)]
            daemon = Control("GPU-1", str(quick(tmp_path)), tmp_path, Times())
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


# What a tenant can do who is root in its container, and whoever answers in the daemon's place.


async def test_a_ceiling_that_a_tenant_has_lifted_is_put_back_counted_and_told(program: Path, root: Path) -> None:
    told: list[str] = []
    daemons = Daemons(
        str(program), root, Times(0.05, 2.0, 0.0, 0.05), lambda uuid, text: told.append(f"{uuid}: {text}")
    )
    daemons.want((A,))
    async with running(daemons):
        await eventually_async(up(daemons))
        tenant = channel(program, root)
        await tenant.ask("start_server -uid 0")
        (server,) = await servers(tenant)
        daemons.apply_holdings((A,), (held(30),))
        await reaches(program, root, ("30.0", "12288M"))
        await eventually_async(lambda: daemons.servers() == {server})
        await tenant.ask("set_default_active_thread_percentage 100\nset_default_device_pinned_mem_limit 0 40960M")
        await reaches(program, root, ("30.0", "12288M"))
        await tenant.ask(f"set_device_pinned_mem_limit {server} 0 40960M")

        async def put_back() -> bool:
            return await tenant.ask(f"get_device_pinned_mem_limit {server} 0") == "12288M"

        await eventually_async(put_back)
        await eventually_async(lambda: len(told) == 2)
        assert told[0] == "GPU-a: somebody has changed the ceiling of its MPS; it was put back"
        assert daemons.ceilings_put_back() == {"GPU-a": 2}


def liar(folder: Path, answer: str) -> Path:
    """A control program that counts its calls and answers as a rogue socket would."""
    program = folder / "liar"
    program.write_text(f"#!/bin/sh\ncat >/dev/null\necho >>{folder}/calls\n{answer}\n")
    program.chmod(0o755)
    return program


async def test_an_answer_that_names_other_servers_each_time_leads_to_two_rounds_and_no_signal(tmp_path: Path) -> None:
    rogue = Control("GPU-a", str(liar(tmp_path, "date +%N; echo 1; echo $PPID")), tmp_path, QUICK)
    rogue.reported = Reported(pid=os.getpid())
    rogue.problem = ""
    await rogue.raise_ceiling(Ceiling(30, 100), Ceiling(100, 1000))
    assert len((tmp_path / "calls").read_text()) <= 2


async def test_an_endless_answer_is_cut(tmp_path: Path) -> None:
    rogue = Control("GPU-a", str(liar(tmp_path, "yes 1")), tmp_path, QUICK)
    with pytest.raises(NotReachable, match="get_server_list: the answer is longer than any of a daemon"):
        await rogue.ask("get_server_list")


async def test_an_answer_that_never_comes_has_an_end(tmp_path: Path) -> None:
    mute = Control("GPU-a", str(liar(tmp_path, "exec sleep 1000")), tmp_path, Times(patience=0.2))
    with pytest.raises(NotReachable, match="get_server_list: no answer"):
        await mute.ask("get_server_list")


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        ("30.0\n12288M", [Ceiling(30, 12288)]),
        ("30\n12G\n100\n1024K", [Ceiling(30, 12288), Ceiling(100, 1)]),
        ("7: no such server\n0G", []),
        ("101\n1G\nnan\n1G\n-1\n1G\n50.0", []),
        ("50.0\n" + "9" * 40 + "M", []),
    ],
)
def test_ceilings_are_read_from_what_can_be_read(answer: str, found: list[Ceiling]) -> None:
    assert _ceilings(answer.splitlines()) == found


def test_the_supervisor_takes_less_than_ten_mebibytes(program: Path, root: Path) -> None:
    with supervised(program, root) as process:
        (root / supervisor.WANTED).write_text("GPU-a\t1\nGPU-b\t1\n")
        eventually(lambda: control_there(root, "GPU-a") and control_there(root, "GPU-b"), "both daemons run")
        status = Path(f"/proc/{process.pid}/status").read_text()
        resident = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))
        own = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon"))
        assert own < 6 * 1024
        assert resident < 11 * 1024, "the rest are pages of the interpreter's own file"


def control_there(root: Path, uuid: str) -> bool:
    return (root / uuid / "pipe" / f"{NAME}.pid").exists()


def there(folder: str) -> list[str]:
    return sorted(path.name for path in Path(folder).iterdir())


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
async def test_each_gpu_has_a_shared_memory_of_its_own_with_an_end(program: Path, root: Path) -> None:
    words = [sys.executable, "-I", "-S", supervisor.__file__, str(root), str(program), str(1 << 20), "true", "0.05"]
    process = await asyncio.create_subprocess_exec(*words)
    daemons = made(program, root)
    daemons.want((A, B))
    try:
        async with followed(daemons):
            await eventually_async(up(daemons))
            first, second = root / "GPU-a/shm", root / "GPU-b/shm"
            with pytest.raises(OSError, match="No space left"):
                (first / "full").write_bytes(bytes(2 << 20))
            (second / "mine").write_bytes(bytes(1 << 19))
            assert there(f"/proc/{control_pid(root, 'GPU-b')}/root/dev/shm") == ["mine"]
            daemons.want((A,))
            await eventually_async(lambda: not second.is_mount())
    finally:
        forget_wanted(root)
        await eventually_async(lambda: not (root / "GPU-a/shm").is_mount())
        process.terminate()
        assert await process.wait() == 0
