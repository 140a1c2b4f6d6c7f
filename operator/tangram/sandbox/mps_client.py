"""The asking side of the fake ``nvidia-cuda-mps-control``.

It is a process for every question, as the tool is, and loads next to nothing: a fourth of the time with all of Python.
"""

import _socket
import os
import sys


def send(pipes: str, commands: str) -> int:
    """Print the daemon's answers to commands, one a line; the exit code of the tool."""
    for command in filter(None, map(str.strip, commands.splitlines())):
        try:
            answer = _answer(f"{pipes}/control", command)
        except OSError:
            print("Cannot find MPS control daemon process")
            return 1
        print(answer, end="" if answer.endswith("\n") or not answer else "\n")
    return 0


def _answer(path: str, command: str) -> str:
    control = _socket.socket(_socket.AF_UNIX)
    try:
        control.connect(path)
        control.sendall(command.encode())
        control.shutdown(_socket.SHUT_WR)
        parts = []
        while part := control.recv(1 << 16):
            parts.append(part)
    finally:
        control.close()
    return b"".join(parts).decode()


if __name__ == "__main__":
    sys.exit(send(os.environ.get("CUDA_MPS_PIPE_DIRECTORY", "/tmp/nvidia-mps"), sys.stdin.read()))  # noqa: S108 - the tool's own default
