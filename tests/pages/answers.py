"""Run in a network of its own: start a server as an image would, and say whether it answers HTTP on a port.

``python answers.py PORT SECONDS COMMAND...`` ends with 0 when it does.
"""

import contextlib
import fcntl
import http.client
import socket
import struct
import subprocess
import sys
import time

SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 0x1


def raise_loopback() -> None:
    """A new network has a loopback device that is down."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        request = struct.pack("16sH14s", b"lo", 0, b"")
        _, flags, _ = struct.unpack("16sH14s", fcntl.ioctl(sock, SIOCGIFFLAGS, request))
        fcntl.ioctl(sock, SIOCSIFFLAGS, struct.pack("16sH14s", b"lo", flags | IFF_UP, b""))


def answers(port: int) -> bool:
    """Whether a request is answered, and without an error of the server."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
        connection.request("GET", "/")
        return connection.getresponse().status < 500
    return False


def main(port: int, seconds: float, command: list[str]) -> int:
    """The exit status."""
    raise_loopback()
    end = time.monotonic() + seconds
    with subprocess.Popen(command) as server:
        try:
            while time.monotonic() < end and server.poll() is None:
                if answers(port):
                    return 0
                time.sleep(0.05)
        finally:
            server.kill()
    return 1


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), float(sys.argv[2]), sys.argv[3:]))
