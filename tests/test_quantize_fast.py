"""The fast kernels against the C library: every byte equal, whatever the finite weights."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.random import Generator
from numpy.typing import NDArray

from quantize import fast, ggml

pytestmark = pytest.mark.skipif(
    fast.why_not() is not None, reason=f"the fast kernels cannot be used here: {fast.why_not()}"
)

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]

BLOCKS = 300
SHAPE = (BLOCKS, 256)
LARGEST = 3.4028234e38
TYPES = tuple(fast.KERNELS)


def scaled(parts: int, low: int, high: int) -> Callable[[Generator], NDArray[np.float64]]:
    """Normal weights where each run of 256 / parts has a power of ten of its own."""

    def make(random: Generator) -> NDArray[np.float64]:
        powers = 10.0 ** random.integers(low, high, (BLOCKS, parts))
        return random.standard_normal(SHAPE) * np.repeat(powers, 256 // parts, axis=1)

    return make


def any_bits(random: Generator) -> NDArray[np.float32]:
    bits = random.integers(0, 2**32, SHAPE, dtype=np.uint32).view(np.float32)
    return np.where(np.isfinite(bits), bits, np.float32(1))


def search_grids(random: Generator) -> NDArray[np.float64]:
    """Sub-blocks of Q6_K on the grid of one step of its search, so that every step wins somewhere."""
    steps = np.repeat(32 + 0.1 * random.integers(-9, 10, (BLOCKS, 16)), 16, axis=1)
    return np.where(np.arange(256) % 16 == 0, 1, random.integers(-31, 32, SHAPE) / steps)


KINDS: dict[str, Callable[[Generator], NDArray[np.floating]]] = {
    "normal": lambda random: random.standard_normal(SHAPE) * 0.02,
    "student t": lambda random: random.standard_t(2, SHAPE) * 0.02,
    "cauchy": lambda random: random.standard_cauchy(SHAPE),
    "zeros": lambda random: np.zeros(SHAPE),
    "zeros of both signs": lambda random: np.where(random.random(SHAPE) < 0.5, 0.0, -0.0),
    "few that are not zero": lambda random: random.standard_normal(SHAPE) * (random.random(SHAPE) < 0.02),
    "constant blocks": lambda random: np.repeat(random.standard_normal((BLOCKS, 1)), 256, axis=1),
    "constant sub-blocks": lambda random: np.repeat(random.standard_normal((BLOCKS, 16)), 16, axis=1),
    "positive": lambda random: np.abs(random.standard_normal(SHAPE)),
    "negative": lambda random: -np.abs(random.standard_normal(SHAPE)),
    "alternating": lambda random: np.abs(random.standard_normal(SHAPE)) * np.resize([1.0, -1.0], 256),
    "far above zero": lambda random: 1 + random.standard_normal(SHAPE) * 1e-4,
    "far below zero": lambda random: -1 + random.standard_normal(SHAPE) * 1e-4,
    "neighbouring floats": lambda random: -1 - random.integers(0, 3, SHAPE) * 2.0**-23,
    # Scales so different that the levels of the search are kept, or that x / d leaves the range of nearest_int.
    "sub-blocks of any size": scaled(16, -12, 12),
    "sub-blocks of any offset": lambda random: (
        scaled(8, -6, 6)(random) + np.repeat(random.standard_normal((BLOCKS, 8)), 32, axis=1)
    ),
    "powers of two": lambda random: np.ldexp(1.0, random.integers(-20, 20, SHAPE)),
    "blocks of any size": scaled(1, -45, 38),
    "around 1e-15": lambda random: random.standard_normal(SHAPE) * 1e-15,
    "sub-blocks around 1e-15": scaled(16, -17, -13),
    "near the largest": lambda random: np.clip(random.standard_normal(SHAPE) * 1e38, -LARGEST, LARGEST),
    "largest": lambda random: np.where(random.random(SHAPE) < 0.5, LARGEST, -LARGEST),
    "denormal": lambda random: random.integers(-(2**23), 2**23, SHAPE) * 2.0**-149,
    "barely denormal": lambda random: random.integers(-300, 300, SHAPE) * 2.0**-149,
    "coarse grid": lambda random: random.integers(-8, 8, SHAPE) * 0.125,
    "halves": lambda random: random.integers(-127, 128, SHAPE) * 0.5,
    "grids of the search": search_grids,
    "just below halves": lambda random: np.where(
        np.arange(256) % 32 == 0, 127, np.nextafter(random.integers(-4, 4, SHAPE) + np.float32(0.5), 0, dtype="f4")
    ),
    "any bits": any_bits,
}


def blocks(type_name: str, rows: Floats, make: Callable[[str, Floats, Bytes], None] = fast.quantize_rows) -> Bytes:
    kernel = fast.KERNELS[type_name]
    out = np.full((rows.shape[0], rows.shape[1] // kernel.weights * kernel.size), 0xA5, np.uint8)
    make(type_name, rows, out)
    return out


def assert_as_in_c(type_name: str, rows: Floats) -> None:
    of_c = blocks(type_name, rows, lambda name, weights, out: ggml.quantize_rows(name, weights, out, None))
    size = fast.KERNELS[type_name].size
    unequal = (blocks(type_name, rows) != of_c).reshape(-1, size).any(axis=1)
    assert not unequal.any(), f"{unequal.sum()} of {unequal.size} blocks differ, the first is {unequal.argmax()}"


def rounded_to_bf16(rows: Floats) -> Floats:
    bits = rows.view(np.uint32)
    kept = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) & np.uint32(0xFFFF0000)
    narrow = kept.view(np.float32)
    return np.where(np.isfinite(narrow), narrow, rows)


@pytest.mark.parametrize("type_name", TYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_same_bytes(type_name: str, kind: str) -> None:
    rows = KINDS[kind](np.random.default_rng(1)).astype(np.float32)
    assert np.isfinite(rows).all()
    assert_as_in_c(type_name, rows)
    assert_as_in_c(type_name, rounded_to_bf16(rows))


@pytest.mark.parametrize("type_name", TYPES)
def test_same_bytes_for_f16(type_name: str) -> None:
    rows = np.random.default_rng(2).standard_normal((40, 1536)) * 0.05
    assert_as_in_c(type_name, rows.astype(np.float16).astype(np.float32))


@pytest.mark.parametrize("type_name", TYPES)
@pytest.mark.parametrize("count", [*range(1, 18), 63, 64, 65])
def test_any_number_of_blocks(type_name: str, count: int) -> None:
    weights = fast.KERNELS[type_name].weights
    assert_as_in_c(type_name, np.random.default_rng(count).standard_normal((1, count * weights)).astype(np.float32))
    assert_as_in_c(type_name, np.random.default_rng(count).standard_normal((count, weights)).astype(np.float32))


@pytest.mark.parametrize("type_name", TYPES)
def test_no_blocks(type_name: str) -> None:
    assert blocks(type_name, np.empty((0, 256), np.float32)).shape[0] == 0
    assert blocks(type_name, np.empty((3, 0), np.float32)).shape == (3, 0)


FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)


@given(
    pool=st.lists(FLOATS, min_size=1, max_size=40),
    exact=st.lists(FLOATS, max_size=32),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=200, deadline=None)
def test_any_finite_weights(pool: list[float], exact: list[float], seed: int) -> None:
    """Two blocks drawn from a pool, which makes ties; the first weights as hypothesis chose them."""
    rows = np.random.default_rng(seed).choice(np.array(pool, np.float32), (1, 512))
    rows[0, : len(exact)] = exact
    for type_name in TYPES:
        assert_as_in_c(type_name, rows)


@pytest.mark.parametrize("type_name", TYPES)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_neither_hangs_nor_writes_beyond(type_name: str, value: float) -> None:
    rows = np.random.default_rng(3).standard_normal((2, 512)).astype(np.float32)
    clean = blocks(type_name, rows)
    rows[0, ::7] = value
    assert (blocks(type_name, rows)[1] == clean[1]).all()


@pytest.mark.parametrize("type_name", TYPES)
def test_threads_on_slabs(type_name: str) -> None:
    rows = np.random.default_rng(4).standard_normal((64, 1536)).astype(np.float32)
    whole = blocks(type_name, rows)
    out = np.zeros_like(whole)
    bounds = [0, 5, 16, 17, 40, 64]

    def work(start: int, end: int) -> None:
        for _ in range(5):
            fast.quantize_rows(type_name, rows[start:end], out[start:end])

    threads = [threading.Thread(target=work, args=pair) for pair in pairwise(bounds)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (out == whole).all()


@pytest.mark.parametrize("type_name", TYPES)
def test_releases_the_gil(type_name: str) -> None:
    """This thread wakes up in the middle of a call, too; on a busy machine maybe not in every call."""
    rows = np.random.default_rng(5).standard_normal((1000, 2048)).astype(np.float32)
    out = blocks(type_name, rows)
    ends: list[float] = []

    def work() -> None:
        ends.append(time.perf_counter())
        fast.quantize_rows(type_name, rows, out)
        ends.append(time.perf_counter())

    def wakes_within() -> bool:
        ends.clear()
        turns = []
        worker = threading.Thread(target=work)
        worker.start()
        while worker.is_alive():
            time.sleep(0.0002)
            turns.append(time.perf_counter())
        return any(ends[0] < turn < ends[1] for turn in turns)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(100)  # a thread loses the GIL only where it gives it away
    try:
        assert any(wakes_within() for _ in range(20))
    finally:
        sys.setswitchinterval(interval)


@pytest.mark.parametrize("type_name", TYPES)
def test_read_only_weights(type_name: str) -> None:
    rows = np.random.default_rng(6).standard_normal((3, 512)).astype(np.float32)
    expected = blocks(type_name, rows)
    rows.flags.writeable = False
    assert (blocks(type_name, rows) == expected).all()


def test_leaves_the_weights_writable() -> None:
    rows = np.ones((1, 256), np.float32)
    blocks("Q4_K", rows)
    rows[0, 0] = 2
    assert rows[0, 0] == 2


@pytest.mark.parametrize(
    ("rows", "out", "message"),
    [
        (np.zeros((2, 256)), np.zeros((2, 144), np.uint8), "float32"),
        (np.zeros(256, np.float32), np.zeros((1, 144), np.uint8), "rows"),
        (np.zeros((2, 128), np.float32), np.zeros((2, 72), np.uint8), "blocks of 256"),
        (np.zeros((2, 256), np.float32), np.zeros((2, 143), np.uint8), "do not fit"),
        (np.zeros((2, 256), np.float32), np.zeros((1, 288), np.uint8), "do not fit"),
        (np.zeros((2, 256), np.float32), np.zeros((2, 144), np.int8), "do not fit"),
        (np.zeros((2, 512), np.float32)[:, ::2], np.zeros((2, 144), np.uint8), "contiguous"),
        (np.zeros((2, 256), np.float32), np.zeros((2, 288), np.uint8)[:, :144], "contiguous"),
        (np.zeros(2049, np.uint8)[1:].view(np.float32).reshape(2, 256), np.zeros((2, 144), np.uint8), "contiguous"),
    ],
)
def test_refuses_what_would_be_read_or_written_wrongly(rows: Floats, out: Bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fast.quantize_rows("Q4_K", rows, out)


def test_refuses_a_type_without_a_kernel() -> None:
    with pytest.raises(ValueError, match="Q3_K"):
        fast.quantize_rows("Q3_K", np.zeros((1, 256), np.float32), np.zeros((1, 110), np.uint8))


def test_a_full_disk_does_not_stop_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Numba compiles, keeps the code in memory and then fails to save it, once."""
    from quantize import fast_kernels

    rows = np.ones((1, 32), np.float32)
    expected = blocks("Q8_0", rows)
    real, failures = fast_kernels.quantize_q8_0, [OSError("No space left on device")]

    def full(weights: Floats, out: Bytes) -> None:
        if failures:
            raise failures.pop()
        real(weights, out)

    monkeypatch.setattr(fast_kernels, "quantize_q8_0", full)
    assert (blocks("Q8_0", rows) == expected).all()


def in_new_process(program: str, **environment: str) -> str:
    root = Path(__file__).parent.parent
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=root, env=os.environ | environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_numba_is_not_imported_before_it_is_needed() -> None:
    assert in_new_process("import sys, quantize.fast; print('numba' in sys.modules)") == "False"


ONE_BLOCK = """
import numpy as np
from quantize import fast
rows, out = np.ones((1, 32), np.float32), np.zeros((1, 34), np.uint8)
fast.quantize_rows("Q8_0", rows, out)
print(out[0, 2])
"""


def test_compiled_code_is_kept_in_numba_cache_dir(tmp_path: Path) -> None:
    assert in_new_process(ONE_BLOCK, NUMBA_CACHE_DIR=str(tmp_path)) == "127"
    assert [path.name for path in tmp_path.rglob("*.nbi")]


def test_nowhere_to_keep_compiled_code(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    nowhere = str(tmp_path / "file" / "below")
    only_there = "UserProvidedCacheLocator"
    assert in_new_process(ONE_BLOCK, NUMBA_CACHE_DIR=nowhere, NUMBA_CACHE_LOCATOR_CLASSES=only_there) == "127"


def test_why_not(monkeypatch: pytest.MonkeyPatch) -> None:
    assert fast.why_not() is None
    with monkeypatch.context() as patch:
        patch.setattr("platform.machine", lambda: "arm64")
        assert "arm64" in (fast.why_not() or "")
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "numba", None)
        assert "pip install numba" in (fast.why_not() or "")
    with monkeypatch.context() as patch:
        patch.setattr("numba.config.DISABLE_JIT", 1)
        assert "NUMBA_DISABLE_JIT" in (fast.why_not() or "")
