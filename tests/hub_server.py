"""The HTTP side of the local Hub: connections, the delivery of an answer, and an end that leaves nothing open."""

from __future__ import annotations

import errno
import os
import socket
import sys
import threading
import time
from contextlib import suppress
from http.client import responses
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import TCPServer, ThreadingMixIn
from typing import Any, BinaryIO, Protocol

from tests.hub_faults import Answer, Origin, Request

PIECE = 256 * 1024
TICKS = 20
"""Pieces a second of a paced delivery."""


class Brain(Protocol):
    """What the connections ask."""

    stopping: threading.Event
    rate: int | None

    def answer(self, request: Request) -> Answer: ...


class Server(ThreadingMixIn, TCPServer):
    """One origin: a free port of 127.0.0.1 and a thread for each connection."""

    allow_reuse_address = True
    request_queue_size = 64

    def __init__(self, brain: Brain, origin: Origin) -> None:
        super().__init__(("127.0.0.1", 0), Connection)
        self.brain, self.origin = brain, origin
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.errors: list[BaseException] = []
        self._live: dict[threading.Thread, socket.socket] = {}
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def process_request(self, request: Any, client_address: Any) -> None:
        thread = threading.Thread(target=self.process_request_thread, args=(request, client_address), daemon=True)
        with self._lock:
            self._live[thread] = request
        thread.start()

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            with self._lock:
                self._live.pop(threading.current_thread(), None)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no error; everything else is one of the Hub."""
        error = sys.exc_info()[1]
        if error is not None and not isinstance(error, ConnectionError) and not gone(error):
            self.errors.append(error)

    def stop(self) -> None:
        """No new connections, then an end to those there are."""
        self.shutdown()
        with self._lock:
            live = dict(self._live)
        for connection in live.values():
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in (*live, self._thread):
            thread.join(timeout=10)
        self.server_close()


class Connection(BaseHTTPRequestHandler):
    """Reads requests, asks for answers, and hands them over as they are, faults included."""

    server: Server
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def respond(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = Request(self.server.origin, self.command, self.path, headers)
        answer = self.server.brain.answer(request)
        # Closed unless everything goes well.
        keep, self.close_connection = not self.close_connection, True
        if answer.delay and self.wait(answer.delay):
            return
        if answer.refused:
            return
        names = {name.lower() for name in answer.headers}
        if answer.extra or not names & {"content-length", "transfer-encoding"}:
            keep = False
        if not keep:
            answer.set("Connection", "close")
        request.status = answer.status
        lines = [f"HTTP/1.1 {answer.status} {responses.get(answer.status, '')}".rstrip()]
        lines += [f"{name}: {value}" for name, value in answer.headers.items()]
        self.wfile.write("\r\n".join([*lines, "", ""]).encode("utf-8", "surrogatepass"))
        if request.method != "HEAD" and not self.deliver(request, answer):
            return
        self.close_connection = not keep

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_OPTIONS = respond

    def deliver(self, request: Request, answer: Answer) -> bool:
        """The body, as far as it goes. False when it did not go all the way."""
        rate = min(filter(None, (answer.rate, self.server.brain.rate if request.origin == "cdn" else None)), default=0)
        begin, done, length = time.monotonic(), 0, answer.stop - answer.start
        end = length if answer.cut is None else min(length, answer.cut)
        stalls = dict(answer.stalls)
        file = answer.data.open("rb", buffering=0) if isinstance(answer.data, Path) else None
        try:
            while done < end:
                if done in stalls and self.wait(stalls.pop(done)):
                    return False
                due = begin + done / rate if rate else 0
                if due > time.monotonic() and self.wait(due - time.monotonic()):
                    return False
                count = min(PIECE, end - done, *(at - done for at in stalls if at > done))
                if rate:
                    count = min(count, max(1, rate // TICKS))
                done += self.piece(request, answer, file, answer.start + done, count)
        finally:
            if file is not None:
                file.close()
        if answer.extra and done == length:
            self.push(request, answer.extra)
        return done == length and not self.server.brain.stopping.is_set()

    def piece(self, request: Request, answer: Answer, file: BinaryIO | Any, start: int, count: int) -> int:
        """Hand over up to `count` bytes from `start` of the file, straight from the disk where that can be."""
        flips = [at for at in answer.flips if start <= at < start + count]
        if file is not None and not flips:
            with request.lock, suppress(NotImplementedError):
                sent = sendfile(self.connection, file, start, count)
                request.total += sent
                return sent
        if file is None:
            data = bytearray(answer.data[start : start + count])  # type: ignore[index]
        else:
            file.seek(start)
            data = bytearray(file.read(count))
        if not data:
            raise EOFError("the file became shorter than it was")
        for at in flips:
            data[at - start] ^= 1
        return self.push(request, data)

    def push(self, request: Request, data: bytes | bytearray) -> int:
        with request.lock:
            self.connection.sendall(data)
            request.total += len(data)
        return len(data)

    def wait(self, seconds: float) -> bool:
        """True when the Hub stops before."""
        return self.server.brain.stopping.wait(min(seconds, threading.TIMEOUT_MAX))

    def log_message(self, format: str, *arguments: Any) -> None:
        """The log is the Hub's."""


def sendfile(connection: socket.socket, file: BinaryIO, start: int, count: int) -> int:
    """os.sendfile; NotImplementedError where the system, the file or the socket does not know it."""
    try:
        sent = os.sendfile(connection.fileno(), file.fileno(), start, count)
    except AttributeError:
        raise NotImplementedError from None
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
            raise NotImplementedError from error
        raise
    if not sent:
        raise EOFError("the file became shorter than it was")
    return sent


def gone(error: BaseException) -> bool:
    return isinstance(error, OSError) and error.errno in (errno.ENOTCONN, errno.EBADF)
