"""Writes the result: slab by slab from the source through the quantizer into its place, on several threads.

Nothing is kept whole in memory, and the source is read, never mapped: a file that shrinks under a mapping kills the
process. An unfinished result lies beside the target as NAME.part with a journal and is gone on with.
"""

from __future__ import annotations

import hashlib
import math
import os
import shutil
import threading
import zlib
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from quantize import ggml
from quantize.bounded import open_regular
from quantize.errors import BadRequest, BadSource, NoSpace
from quantize.file_types import row_bytes
from quantize.gguf_format import Key, StoredTensor, padded, write_header
from quantize.imatrix import Imatrix
from quantize.journal import Journal, journal_of
from quantize.kernels import Kernels, fits
from quantize.layout import Layout, Planned
from quantize.positional import read_at, write_at
from quantize.recipes import Chosen, needs_imatrix
from quantize.slabs import pair_halves, read_slab, slab_offset, slabs

# Weights in a slab: large enough that Python's part is a thousandth, small enough for a processor's cache.
_SLAB_WEIGHTS = 1 << 19
_SPARE_BYTES = 64 << 20
# Bytes after which the disk is told to begin: else all of them wait for the end.
_SYNC_BYTES = 128 << 20


@dataclass(frozen=True, slots=True)
class Options:
    """How to work; the bytes of the result do not depend on it."""

    kernels: Kernels
    threads: int
    cancel: threading.Event
    on_progress: Callable[[int, int], None] = lambda done, total: None
    """Weights that are written, and all of them; from any thread, but from one at a time, and never falling."""


class Conversion:
    """One result under way. Use it as a context manager; `finish` makes it appear."""

    def __init__(
        self, target: Path, layout: Layout, keys: list[Key], imatrix: Imatrix | None, source: str, options: Options
    ) -> None:
        """source: names what is converted, so that another source does not go on with this one's work.

        Raises NoSpace, BadRequest when the importance matrix does not fit.
        """
        self.target, self.layout, self.options = target, layout, options
        self._imatrix = imatrix
        self._header = write_header(keys, layout.stored)
        identity = hashlib.sha256(self._header)
        identity.update(f"{source}\n{_SLAB_WEIGHTS}".encode())
        for name, values in sorted(imatrix.columns.items()) if imatrix else ():
            identity.update(name.encode())
            identity.update(values.tobytes())
        self._check_importance()
        self.part = target.with_name(target.name + ".part")
        self._journal = Journal(journal_of(target), identity.hexdigest())
        self._numbers = {planned.wanted.name: number for number, planned in enumerate(layout.tensors)}
        self._done: dict[int, dict[int, int]] = {number: {} for number in self._numbers.values()}
        self._weights_done = 0
        self._lock = threading.Lock()
        self._buffers = threading.local()
        self._pool = ThreadPoolExecutor(max(1, options.threads), thread_name_prefix="quantize")
        self._syncer = ThreadPoolExecutor(1, thread_name_prefix="sync")
        self._unsynced = 0
        self._descriptor = -1

    @property
    def size(self) -> int:
        """Bytes of the finished file."""
        return len(self._header) + self.layout.data_size

    def __enter__(self) -> Conversion:
        """Open the unfinished file, its header written and what was right in it kept. Raises NoSpace, OSError."""
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0)
        self._descriptor = os.open(self.part, flags, 0o666)
        try:
            kept = [entry for entry in self._journal.read() if self._is_right(entry)]
            held = os.fstat(self._descriptor).st_blocks * 512 if hasattr(os.stat_result, "st_blocks") else 0
            free = shutil.disk_usage(self.part.parent).free
            if self.size - held + _SPARE_BYTES > free:
                raise NoSpace(
                    f"The result has {self.size:,} bytes, and {free:,} are free in {self.part.parent}.",
                    "Free some space, or take a smaller type.",
                )
            if not kept:
                os.ftruncate(self._descriptor, 0)
            os.ftruncate(self._descriptor, self.size)
            write_at(self._descriptor, self._header, 0)
            for stored in self.layout.stored:
                end = len(self._header) + stored.offset + stored.size
                write_at(self._descriptor, bytes(padded(stored.size) - stored.size), end)
            for number, first, rows, _ in kept:
                self._note(number, first, rows)
            self._journal.open(kept)
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._syncer.shutdown(wait=True, cancel_futures=True)
        self._close()

    def _close(self) -> None:
        self._journal.close()
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def discard(self) -> None:
        """Delete the unfinished file: it can never become right."""
        self._close()
        self.part.unlink(missing_ok=True)
        self._journal.path.unlink(missing_ok=True)

    def is_finished(self, name: str) -> bool:
        """Whether all of a tensor, by its name in the result, is written."""
        number = self._numbers[name]
        return sum(self._done[number].values()) == self.layout.tensors[number].stored.rows

    def write(self, sources: list[tuple[Planned, Path, StoredTensor]]) -> None:
        """Convert tensors: where each goes, the file it is in, and its place there.

        Raises BadSource for weights that are not finite or are cut off, KeyboardInterrupt when cancelled.
        """
        under_way: deque[Future[None]] = deque()
        files: dict[Path, int] = {}
        try:
            for planned, path, stored in sources:
                if path not in files:
                    files[path] = open_regular(path)
                for first, rows in self._slabs(planned):
                    # Two slabs a thread keep every thread busy; more would only wait in memory.
                    while len(under_way) >= 2 * max(1, self.options.threads):
                        under_way.popleft().result()
                    self._check_cancel()
                    task = self._pool.submit(self._convert, planned, files[path], path, stored, first, rows)
                    under_way.append(task)
            while under_way:
                under_way.popleft().result()
        finally:
            for future in under_way:
                future.cancel()
            for future in under_way:
                if not future.cancelled():
                    future.exception()
            for descriptor in files.values():
                os.close(descriptor)

    def write_made(self) -> None:
        """Write the tensors that come from no file."""
        for planned in self.layout.tensors:
            if planned.wanted.values and not self.is_finished(planned.wanted.name):
                self._store(planned, 0, 1, np.asarray(planned.wanted.values, np.float32).tobytes())

    def finish(self) -> Path:
        """Sync and rename: the target appears when every byte is safe, and never before. Its path."""
        missing = [planned.wanted.name for planned in self.layout.tensors if not self.is_finished(planned.wanted.name)]
        if missing:
            raise BadSource(f"The checkpoint lacks {len(missing)} tensors, {missing[0]} among them.")
        self._syncer.shutdown(wait=True, cancel_futures=True)
        os.fsync(self._descriptor)
        self._close()
        os.replace(self.part, self.target)
        if hasattr(os, "O_DIRECTORY"):
            folder = os.open(self.target.parent, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        self._journal.path.unlink(missing_ok=True)
        return self.target

    # One slab

    def _slabs(self, planned: Planned) -> list[tuple[int, int]]:
        """(first row, rows) of what is missing of a tensor."""
        stored = planned.stored
        if planned.wanted.values:
            return []
        done = self._done[self._numbers[planned.wanted.name]]
        return [slab for slab in slabs(stored, planned.wanted.paired_heads, _SLAB_WEIGHTS) if slab[0] not in done]

    def _convert(
        self, planned: Planned, descriptor: int, path: Path, source: StoredTensor, first: int, rows: int
    ) -> None:
        self._check_cancel()
        width, wanted = planned.stored.width, planned.wanted
        raw = self._buffer("raw", row_bytes(source.type, rows * width), np.uint8)
        floats = self._buffer("floats", rows * width, np.float32)
        read_slab(descriptor, path.name, source, first, raw, floats)
        largest = max(float(floats.max()), -float(floats.min()))
        if not math.isfinite(largest):
            raise BadSource(
                f"{source.name} holds a value that is not finite, between rows {first} and {first + rows}.",
                "The checkpoint is damaged: fetch it again.",
            )
        weights = floats.reshape(rows, width)
        if wanted.paired_heads:
            weights = pair_halves(weights, planned.stored.shape[0] // wanted.paired_heads)
        if planned.stored.type == source.type and not wanted.paired_heads:
            self._store(planned, first, rows, raw)
            return
        out = self._buffer("out", row_bytes(planned.stored.type, rows * width), np.uint8).reshape(rows, -1)
        importance = self._importance(planned)
        if not fits(planned.stored.type, largest) or not self.options.kernels.quantize(
            planned.stored.type, weights, out, importance
        ):
            raise BadSource(
                f"{source.name} has weights too large for {planned.stored.type}, "
                f"between rows {first} and {first + rows}.",
                "Take F32 or BF16.",
            )
        self._store(planned, first, rows, out)

    def _store(self, planned: Planned, first: int, rows: int, data: Any) -> None:
        """Into its place, then into the journal."""
        number = self._numbers[planned.wanted.name]
        offset = len(self._header) + slab_offset(planned.stored, first)
        view = memoryview(data).cast("B")
        write_at(self._descriptor, view, offset)
        entry = (number, first, rows, zlib.crc32(view))
        with self._lock:
            self._journal.add(entry)
            self._note(number, first, rows)
            self._unsynced += len(view)
            if self._unsynced >= _SYNC_BYTES:
                self._unsynced = 0
                self._syncer.submit(os.fsync, self._descriptor)
            self.options.on_progress(self._weights_done, self.layout.parameters)

    def _note(self, number: int, first: int, rows: int) -> None:
        self._done[number][first] = rows
        self._weights_done += rows * self.layout.tensors[number].stored.width

    def _is_right(self, entry: tuple[int, int, int, int]) -> bool:
        number, first, rows, checksum = entry
        if number >= len(self.layout.tensors):
            return False
        stored = self.layout.tensors[number].stored
        if not 0 < rows <= stored.rows - first:
            return False
        data = bytearray(row_bytes(stored.type, rows * stored.width))
        offset = len(self._header) + slab_offset(stored, first)
        return read_at(self._descriptor, memoryview(data), offset) == len(data) and zlib.crc32(data) == checksum

    def _buffer(self, name: str, count: int, dtype: Any) -> Any:
        """Memory of this thread, used again for every slab: fresh pages would cost more than the work on them."""
        held = getattr(self._buffers, name, None)
        if held is None or held.size < count:
            held = np.empty(count, dtype)
            setattr(self._buffers, name, held)
        return held[:count]

    def _check_cancel(self) -> None:
        if self.options.cancel.is_set():
            raise KeyboardInterrupt

    # Importance

    def _importance(self, planned: Planned) -> ggml.Floats | None:
        values = self._imatrix.columns.get(planned.wanted.name) if self._imatrix else None
        # That of the embedding may be of another size, and is left out then, as llama-quantize does.
        return values if values is not None and values.size == planned.stored.width else None

    def _check_importance(self) -> None:
        for planned in self.layout.tensors if self._imatrix else ():
            name = planned.wanted.name
            values = self._imatrix.columns.get(name) if self._imatrix else None
            if values is None and needs_imatrix(Chosen(name, planned.stored.type), self.layout.file_type):
                raise BadRequest(f"The importance matrix has nothing on {name}, which is garbage without.")
            if values is not None and values.size != planned.stored.width and name != "token_embd.weight":
                raise BadRequest(
                    f"The importance matrix has {values.size:,} columns for {name}, which has "
                    f"{planned.stored.width:,}.",
                    "It belongs to another model.",
                )
