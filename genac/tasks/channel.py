"""What a verifier and its worker processes say to each other: frames, and a page of shared memory.

A frame is a token that only the two ends know, a length and that many bytes. Bytes that a reward
function writes into an inherited descriptor are no frame, and are noticed.
"""

from __future__ import annotations

import mmap
import os
import socket
import struct
import tempfile
from time import monotonic

HEADER = struct.Struct("!16sQ")
TOKEN_BYTES = 16
CHUNK = 1 << 16
STATE = struct.Struct("=qd")  # number of an item, time.monotonic() of its last step's start
NO_ITEM, IDLE = 0, -1  # in place of a number: the loop itself runs; nothing runs


class Garbled(OSError):
    """Bytes on the socket that the other end's code did not write."""


class Channel:
    """Frames over a socket. `token` is secret, 16 bytes."""

    def __init__(self, sock: socket.socket, token: bytes):
        self.sock, self.token = sock, token
        self._buffer = bytearray()

    def send(self, payload: bytes, seconds: float | None = None) -> None:
        """Raises TimeoutError where the other end does not read within `seconds`."""
        self.sock.settimeout(seconds)
        self.sock.sendall(HEADER.pack(self.token, len(payload)) + payload)

    def receive(self, seconds: float | None = None) -> bytes | None:
        """The next frame, None where it is not complete in time. EOFError at the end."""
        deadline = None if seconds is None else monotonic() + seconds
        while (frame := self.buffered()) is None:
            left = None if deadline is None else max(deadline - monotonic(), 0.001)
            self.sock.settimeout(left)
            try:
                data = self.sock.recv(CHUNK)
            except TimeoutError:
                return None
            if not data:
                raise EOFError("the other end is closed")
            self._buffer += data
        return frame

    def waiting(self) -> bool:
        """Whether there is something to read, or the end."""
        self.sock.settimeout(0)
        try:
            self.sock.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        return True

    def buffered(self) -> bytes | None:
        """The next frame, if all of it has been read. Raises Garbled for what is none."""
        seen = self._buffer
        if not self.token.startswith(bytes(seen[:TOKEN_BYTES])):
            raise Garbled(f"{len(seen)} bytes that are no frame")
        if len(seen) < HEADER.size:
            return None
        end = HEADER.size + HEADER.unpack_from(seen)[1]
        if len(seen) < end:
            return None
        frame = bytes(seen[HEADER.size : end])
        del seen[:end]
        return frame


class Page:
    """Which item a worker is working on and since when, readable while it hangs or is dead."""

    def __init__(self, descriptor: int):
        self._bytes: mmap.mmap | bytearray = mmap.mmap(descriptor, STATE.size)

    def write(self, number: int) -> float:
        """The time that was written, seconds of `time.monotonic`."""
        now = monotonic()
        self._bytes[:] = STATE.pack(number, now)
        return now

    def read(self) -> tuple[int, float]:
        return STATE.unpack(self._bytes[:])

    def detach(self) -> None:
        """In a forked child: write to memory of its own from now on."""
        self._bytes = bytearray(self._bytes[:])


def page_descriptor() -> int:
    """A file of a page's size that has no name."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("genac-verifier")
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.ftruncate(descriptor, STATE.size)
    return descriptor
