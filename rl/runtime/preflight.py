"""What a command needs of the machine, checked before its work: its folder for itself, and a Ray that can start."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from env.errors import MachineError
from env.folder_lock import lock_folder

SHARED_MEMORY = Path("/dev/shm")
LONGEST_SOCKET = 107  # bytes of the path of a unix socket (man 7 unix)
SOCKET = "ray/session_2026-01-01_00-00-00_000000_0000000/sockets/plasma_store"  # below Ray's temporary folder
PATIENCE = 5.0  # seconds for a connection


@contextmanager
def prepare_machine(folder: Path, uses_ray: bool = False, resume: bool = False) -> Iterator[None]:
    """Check what a command needs, and lock the folder that it writes to while the block runs.

    Args:
        folder: Everything that the command writes lies in it.
        uses_ray: The command starts or joins a Ray.
        resume: The command continues what is in the folder; then a folder that does not exist is not made.

    Raises:
        MachineError: Something is missing; one sentence says what and what to do.
    """
    if uses_ray:
        check_ray()
    if resume and not folder.exists():
        yield
        return
    with lock_folder(folder):
        yield


def check_ray() -> None:
    """Check that a cluster answers where RAY_ADDRESS points, or that a local Ray can start. MachineError if not."""
    address = os.environ.get("RAY_ADDRESS", "")
    if address not in ("", "auto", "local"):
        _check_address(address)
        return
    if not SHARED_MEMORY.is_dir():
        raise MachineError(
            f"{SHARED_MEMORY}: not found; Ray needs shared memory, so mount it (docker run --shm-size=8g)"
        )
    name = "RAY_TMPDIR" if "RAY_TMPDIR" in os.environ else "TMPDIR"
    folder = os.environ.get(name, "/tmp")
    length = len(os.fsencode(os.path.join(folder, SOCKET)))
    if length > LONGEST_SOCKET:
        raise MachineError(
            f"{name}={folder}: {length - LONGEST_SOCKET} bytes too long for the paths of Ray's sockets; "
            "set RAY_TMPDIR to a short folder such as /tmp"
        )
    if not os.access(folder, os.W_OK | os.X_OK):
        raise MachineError(f"{name}={folder}: cannot be written to; set RAY_TMPDIR to a folder that can")


def _check_address(address: str) -> None:
    """Raise MachineError unless something answers at an address such as 10.0.0.1:6379 or ray://10.0.0.1:10001."""
    url = urlsplit(address if "://" in address else f"//{address}")
    if url.scheme in ("http", "https"):
        raise MachineError(
            f"RAY_ADDRESS={address}: is the address of a job server; give the job to it by `ray job submit`, "
            "or unset RAY_ADDRESS"
        )
    try:
        host, port = url.hostname, url.port
    except ValueError:
        host, port = None, None
    if not host or not port:
        raise MachineError(f"RAY_ADDRESS={address}: expected HOST:PORT; correct it, or unset RAY_ADDRESS")
    try:
        socket.create_connection((host, port), PATIENCE).close()
    except OSError as error:
        raise MachineError(
            f"RAY_ADDRESS={address}: no cluster answers there ({error.strerror or error}); "
            "start it, or unset RAY_ADDRESS to use a local Ray"
        ) from error
