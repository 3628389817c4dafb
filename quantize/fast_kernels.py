"""The kernels of `fast`, line by line those of ggml/src/ggml-quants.c in llama.cpp. Importing this imports numba.

The bytes are those of C because every sum keeps its order within a sub-block and nothing is fused or reordered:
fastmath stays off, and all constants are float32, since numba widens float32 with int to float64.

Arrays of lanes are flat, value i of lane k at [i * LANES + k], and loops over lanes are innermost: LLVM makes SIMD of
them if it can check that they do not write what they read. Strides are constant, and a lane's figures share an array.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

F = np.float32
Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]
Function = TypeVar("Function", bound=Callable[..., Any])

_numba: Any = importlib.import_module("numba")  # untyped, and not installed everywhere

LANES = 64
UNROLLED = 4  # values of a lane whose sums stay in registers; from 16 on LLVM neither unrolls nor vectorizes

# Rows of the figures of a lane. The first four are the result.
SCALE, MINIMUM, LEVEL_SCALE, LEVEL_MINIMUM = 0, LANES, 2 * LANES, 3 * LANES
HIGHEST, SUM_W, SUM_X, BEST, INVERSE = 4 * LANES, 5 * LANES, 6 * LANES, 7 * LANES, 8 * LANES
SUM_L, SUM_L2, SUM_XL, ERROR = 9 * LANES, 10 * LANES, 11 * LANES, 12 * LANES
NEW_SCALE, NEW_MINIMUM, DETERMINANT = 13 * LANES, 14 * LANES, 15 * LANES
FIGURES = 16 * LANES

ZERO, ONE, TENTH = F(0), F(1), F(0.1)
MAGIC = F(12582912)  # 1.5 * 2**23: a float added to it is rounded to a whole number
ALMOST_ZERO = F(1e-15)  # GROUP_MAX_EPS


def _compiled(function: Function) -> Function:
    compiled: Function = _numba.njit(nogil=True, error_model="numpy")(function)
    return compiled


def _entry(function: Function) -> Function:
    """Compiled and kept on disk: in NUMBA_CACHE_DIR, else beside this file, else in the user's cache."""
    try:
        cached: Function = _numba.njit(nogil=True, error_model="numpy", cache=True)(function)
    except RuntimeError:  # no such folder is writable
        return _compiled(function)
    return cached


@_compiled
def _either(condition: bool, this: F, other: F) -> F:
    """`this if condition else other`, with both read beforehand: a read in a branch of its own stays a branch."""
    return this if condition else other


@_compiled
def _nearest(value: F, low: F, high: F) -> F:
    """nearest_int, clamped to low..high, as a float.

    C subtracts the bits of MAGIC from those of the sum. Floats do the same for any value: with the exponent of
    MAGIC put over the sum's own, whatever that is, the difference is the same whole number.
    """
    mantissa = F(value + MAGIC).view(np.int32) & np.int32(0x007FFFFF)
    whole = np.int32(mantissa | np.int32(0x4B000000)).view(F) - MAGIC
    whole = whole if whole > low else low
    return whole if whole < high else high


@_compiled
def _nearest_int(value: F) -> int:
    return int(F(value + MAGIC).view(np.int32) & np.int32(0x007FFFFF)) - 0x00400000


@_compiled
def _to_half(value: F) -> int:
    """ggml_compute_fp32_to_fp16 of ggml-impl.h: the 16 bits."""
    base = (abs(value) * F(2.0**112)) * F(2.0**-110)
    bits = int(np.int64(F(value).view(np.uint32)))
    doubled = (bits << 1) & 0xFFFFFFFF
    exponent = doubled & 0xFF000000 if doubled > 0x71FFFFFF else 0x71000000
    rounded = int(np.int64(F(np.uint32((exponent >> 1) + 0x07800000).view(F) + base).view(np.uint32)))
    half = 0x7E00 if doubled > 0xFF000000 else ((rounded >> 13) & 0x7C00) + (rounded & 0x0FFF)
    return (bits >> 16) & 0x8000 | half


@_compiled
def _from_half(half: int) -> F:
    """ggml_compute_fp16_to_fp32 of ggml-impl.h."""
    doubled = (half << 17) & 0xFFFFFFFF
    if doubled < 1 << 27:
        value = np.uint32((doubled >> 17) | (126 << 23)).view(F) - F(0.5)
    else:
        value = np.uint32((doubled >> 4) + (0xE0 << 23)).view(F) * F(2.0**-112)
    return -value if half & 0x8000 else value


@_compiled
def _write_half(blocks: Bytes, at: int, half: int) -> None:
    blocks[at] = half & 0xFF
    blocks[at + 1] = half >> 8


@_compiled
def _spread(weights: Floats, start: int, lanes: int, length: int, x: Floats) -> None:
    """Sub-blocks of that length to lanes. Lanes beyond keep what they held, and nobody reads their results."""
    for k in range(lanes):
        for i in range(length):
            x[i * LANES + k] = weights[start + k * length + i]


@_compiled
def _importance(x: Floats, w: Floats, f: Floats) -> None:
    """What the error of a weight counts: its size plus the root mean square of the sub-block.

    As in quantize_row_q4_K_ref. SUM_X is free until `_begin`.
    """
    for k in range(LANES):
        f[SUM_X + k] = ZERO
    for i in range(0, 32 * LANES, LANES):
        for k in range(LANES):
            f[SUM_X + k] += x[i + k] * x[i + k]
    for k in range(LANES):
        f[SUM_X + k] = np.sqrt(f[SUM_X + k] / F(32))
    for i in range(0, 32 * LANES, LANES):
        for k in range(LANES):
            w[i + k] = f[SUM_X + k] + abs(x[i + k])


@_compiled
def _begin(x: Floats, w: Floats, f: Floats, top: F) -> None:
    """make_qkx2_quants up to its search: the sums, and the plain scale from the lowest to the highest weight.

    C returns early where all weights are equal. Here that lane goes on and gets there by itself: its inverse scale
    is infinite, all its levels are nearest_int(NaN) = 0, the scale is 0 and no step of the search has a D above 0.
    """
    for k in range(LANES):
        f[MINIMUM + k] = f[HIGHEST + k] = x[k]
        f[SUM_W + k] = w[k]
        f[SUM_X + k] = w[k] * x[k]
        f[BEST + k] = ZERO
    for i in range(LANES, 32 * LANES, LANES):
        for k in range(LANES):
            value = x[i + k]
            f[MINIMUM + k] = _either(value < f[MINIMUM + k], value, f[MINIMUM + k])
            f[HIGHEST + k] = _either(value > f[HIGHEST + k], value, f[HIGHEST + k])
            f[SUM_W + k] += w[i + k]
            f[SUM_X + k] += w[i + k] * value
    for k in range(LANES):
        f[MINIMUM + k] = _either(f[MINIMUM + k] > ZERO, ZERO, f[MINIMUM + k])
        f[LEVEL_MINIMUM + k] = f[MINIMUM + k]
        f[LEVEL_SCALE + k] = top / (f[HIGHEST + k] - f[MINIMUM + k])
        f[SCALE + k] = ONE / f[LEVEL_SCALE + k]
    for i in range(0, 32 * LANES, LANES):
        for k in range(LANES):
            level = _nearest(f[LEVEL_SCALE + k] * (x[i + k] - f[MINIMUM + k]), ZERO, top)
            difference = f[SCALE + k] * level + f[MINIMUM + k] - x[i + k]
            f[BEST + k] += w[i + k] * (difference * difference)


@_compiled
def _try_scale(x: Floats, w: Floats, levels: Floats, f: Floats, top: F, numerator: F) -> None:
    """One step of the search of make_qkx2_quants. A better minimum is the one that the next step starts from."""
    for k in range(LANES):
        f[INVERSE + k] = numerator / (f[HIGHEST + k] - f[MINIMUM + k])
        f[SUM_L + k] = f[SUM_L2 + k] = f[SUM_XL + k] = f[ERROR + k] = ZERO
    for start in range(0, 32 * LANES, UNROLLED * LANES):
        for k in range(LANES):
            sum_l, sum_l2, sum_xl = f[SUM_L + k], f[SUM_L2 + k], f[SUM_XL + k]
            for i in range(UNROLLED):
                at = start + i * LANES + k
                level = _nearest(f[INVERSE + k] * (x[at] - f[MINIMUM + k]), ZERO, top)
                levels[at] = level
                weighted = w[at] * level
                sum_l += weighted
                sum_l2 += weighted * level
                sum_xl += weighted * x[at]
            f[SUM_L + k], f[SUM_L2 + k], f[SUM_XL + k] = sum_l, sum_l2, sum_xl
    for k in range(LANES):
        sum_w, sum_x, sum_l = f[SUM_W + k], f[SUM_X + k], f[SUM_L + k]
        sum_l2, sum_xl = f[SUM_L2 + k], f[SUM_XL + k]
        determinant = f[DETERMINANT + k] = sum_w * sum_l2 - sum_l * sum_l
        scale = (sum_w * sum_xl - sum_x * sum_l) / determinant
        minimum = (sum_l2 * sum_x - sum_l * sum_xl) / determinant
        f[NEW_SCALE + k] = _either(minimum > ZERO, sum_xl / sum_l2, scale)
        f[NEW_MINIMUM + k] = _either(minimum > ZERO, ZERO, minimum)
    for start in range(0, 32 * LANES, UNROLLED * LANES):
        for k in range(LANES):
            error = f[ERROR + k]
            for i in range(UNROLLED):
                at = start + i * LANES + k
                difference = f[NEW_SCALE + k] * levels[at] + f[NEW_MINIMUM + k] - x[at]
                error += w[at] * (difference * difference)
            f[ERROR + k] = error
    for k in range(LANES):
        better = (f[DETERMINANT + k] > ZERO) & (f[ERROR + k] < f[BEST + k])
        f[BEST + k] = _either(better, f[ERROR + k], f[BEST + k])
        f[LEVEL_SCALE + k] = _either(better, f[INVERSE + k], f[LEVEL_SCALE + k])
        f[LEVEL_MINIMUM + k] = _either(better, f[MINIMUM + k], f[LEVEL_MINIMUM + k])
        f[SCALE + k] = _either(better, f[NEW_SCALE + k], f[SCALE + k])
        f[MINIMUM + k] = _either(better, f[NEW_MINIMUM + k], f[MINIMUM + k])


@_compiled
def _pack_with_minimum(x: Floats, f: Floats, lane: int, block: Bytes, levels: Bytes, top: F) -> None:
    """One block of quantize_row_q4_K_ref or quantize_row_q5_K_ref after the search; its lanes begin at `lane`."""
    max_scale = max_min = ZERO
    for k in range(lane, lane + 8):
        max_scale = _either(f[SCALE + k] > max_scale, f[SCALE + k], max_scale)
        max_min = _either(-f[MINIMUM + k] > max_min, -f[MINIMUM + k], max_min)
    inverse_scale = F(63) / max_scale if max_scale > ZERO else ZERO
    inverse_min = F(63) / max_min if max_min > ZERO else ZERO
    half, half_min = _to_half(max_scale / F(63)), _to_half(max_min / F(63))
    _write_half(block, 0, half)
    _write_half(block, 2, half_min)
    for j in range(8):
        # C keeps the low byte and clamps that.
        scale = min(63, _nearest_int(inverse_scale * f[SCALE + lane + j]) & 0xFF)
        minimum = min(63, _nearest_int(inverse_min * -f[MINIMUM + lane + j]) & 0xFF)
        if j < 4:
            block[4 + j] = scale
            block[8 + j] = minimum
        else:
            block[8 + j] = (scale & 0xF) | (minimum & 0xF) << 4
            block[j] |= scale >> 4 << 6
            block[4 + j] |= minimum >> 4 << 6
        step = _from_half(half) * F(scale)
        offset = _from_half(half_min) * F(minimum)
        if step != ZERO:
            for i in range(32):
                levels[32 * j + i] = np.int32(_nearest((x[32 * j + i] + offset) / step, ZERO, top))
        else:  # the levels of the search stay
            inverse, lowest = f[LEVEL_SCALE + lane + j], f[LEVEL_MINIMUM + lane + j]
            for i in range(32):
                levels[32 * j + i] = np.int32(_nearest(inverse * (x[32 * j + i] - lowest), ZERO, top))
    low_bits = 16 if top == F(15) else 48
    for j in range(4):
        for i in range(32):
            block[low_bits + 32 * j + i] = levels[64 * j + i] & 0xF | (levels[64 * j + 32 + i] & 0xF) << 4
    if low_bits == 48:
        for i in range(32):
            high = 0
            for j in range(8):
                high |= levels[32 * j + i] >> 4 << j
            block[16 + i] = high


@_entry
def quantize_with_minimum(weights: Floats, blocks: Bytes, top: F, first: F, steps: int) -> None:
    """quantize_row_q4_K_ref (top 15) and quantize_row_q5_K_ref (top 31)."""
    x, w, levels = np.zeros(32 * LANES, F), np.empty(32 * LANES, F), np.empty(32 * LANES, F)
    f, packed = np.empty(FIGURES, F), np.empty(256, np.uint8)
    count = len(weights) // 256
    size = 144 if top == F(15) else 176
    for group in range(0, count, LANES // 8):
        members = min(LANES // 8, count - group)
        _spread(weights, group * 256, members * 8, 32, x)
        _importance(x, w, f)
        _begin(x, w, f, top)
        for step in range(steps + 1):
            _try_scale(x, w, levels, f, top, first + TENTH * F(step) + top)
        for b in range(members):
            at = group + b
            source, block = weights[at * 256 : (at + 1) * 256], blocks[at * size : (at + 1) * size]
            _pack_with_minimum(source, f, b * 8, block, packed, top)


@_compiled
def _try_scale_q6_k(x: Floats, w: Floats, f: Floats, numerator: F) -> None:
    """The sums of make_qx_quants for one scale; the scale that fits its levels best, and how well (in ERROR).

    C does not divide by a SUM_L2 of 0, but only lanes that `_search_q6_k` sets to 0 have that.
    """
    for k in range(LANES):
        f[INVERSE + k] = numerator / f[MINIMUM + k]
        f[SUM_XL + k] = f[SUM_L2 + k] = ZERO
    for start in range(0, 16 * LANES, UNROLLED * LANES):
        for k in range(LANES):
            sum_xl, sum_l2 = f[SUM_XL + k], f[SUM_L2 + k]
            for i in range(UNROLLED):
                at = start + i * LANES + k
                level = _nearest(f[INVERSE + k] * x[at], F(-32), F(31))
                sum_xl += w[at] * x[at] * level
                sum_l2 += w[at] * level * level
            f[SUM_XL + k], f[SUM_L2 + k] = sum_xl, sum_l2
    for k in range(LANES):
        f[NEW_SCALE + k] = f[SUM_XL + k] / f[SUM_L2 + k]
        f[ERROR + k] = f[NEW_SCALE + k] * f[SUM_XL + k]


@_compiled
def _search_q6_k(x: Floats, w: Floats, f: Floats) -> None:
    """make_qx_quants(16, 32, x, L, 1, NULL): a weight counts by its square.

    Besides the result, HIGHEST gets the largest absolute value and MINIMUM the value that has it (amax, max).
    """
    for k in range(LANES):
        f[HIGHEST + k] = f[MINIMUM + k] = ZERO
    for i in range(0, 16 * LANES, LANES):
        for k in range(LANES):
            value = x[i + k]
            size = abs(value)
            w[i + k] = value * value
            f[MINIMUM + k] = _either(size > f[HIGHEST + k], value, f[MINIMUM + k])
            f[HIGHEST + k] = _either(size > f[HIGHEST + k], size, f[HIGHEST + k])
    _try_scale_q6_k(x, w, f, F(-32))
    for k in range(LANES):
        f[SCALE + k], f[BEST + k], f[LEVEL_SCALE + k] = f[NEW_SCALE + k], f[ERROR + k], f[INVERSE + k]
    for step in range(-9, 10):
        if step == 0:
            continue
        _try_scale_q6_k(x, w, f, -(F(32) + TENTH * F(step)))
        for k in range(LANES):
            sum_xl, sum_l2 = f[SUM_XL + k], f[SUM_L2 + k]
            better = (sum_l2 > ZERO) & (sum_xl * sum_xl > f[BEST + k] * sum_l2)
            f[SCALE + k] = _either(better, f[NEW_SCALE + k], f[SCALE + k])
            f[BEST + k] = _either(better, f[ERROR + k], f[BEST + k])
            f[LEVEL_SCALE + k] = _either(better, f[INVERSE + k], f[LEVEL_SCALE + k])
    for k in range(LANES):
        f[SCALE + k] = _either(f[HIGHEST + k] < ALMOST_ZERO, ZERO, f[SCALE + k])


@_compiled
def _pack_q6_k(x: Floats, f: Floats, lane: int, block: Bytes, levels: Bytes, steps: Floats) -> None:
    """One block of quantize_row_q6_K_ref after the search; its lanes begin at `lane`."""
    largest = size = ZERO
    for k in range(lane, lane + 16):
        if abs(f[SCALE + k]) > size:
            largest, size = f[SCALE + k], abs(f[SCALE + k])
    if size < ALMOST_ZERO:
        block[:] = 0
        return
    inverse = F(-128) / largest
    half = _to_half(ONE / inverse)
    _write_half(block, 208, half)
    for j in range(16):
        scale = np.int8(min(127, _nearest_int(inverse * f[SCALE + lane + j])))
        block[192 + j] = np.uint8(scale)
        steps[16 * j : 16 * j + 16] = _from_half(half) * F(scale)
    for i in range(256):
        levels[i] = np.int32(_nearest(x[i] / steps[i], F(-32), F(31))) + np.int32(32)
    for j in range(16):
        if steps[16 * j] == ZERO:  # the levels of the search stay
            searched, zero = f[LEVEL_SCALE + lane + j], f[HIGHEST + lane + j] < ALMOST_ZERO
            for i in range(16 * j, 16 * j + 16):
                levels[i] = 0 if zero else np.int32(_nearest(searched * x[i], F(-32), F(31))) + np.int32(32)
    for h in range(2):
        for i in range(32):
            a, b = levels[128 * h + i], levels[128 * h + i + 32]
            c, d = levels[128 * h + i + 64], levels[128 * h + i + 96]
            block[64 * h + i] = a & 0xF | (c & 0xF) << 4
            block[64 * h + i + 32] = b & 0xF | (d & 0xF) << 4
            block[128 + 32 * h + i] = a >> 4 | b >> 4 << 2 | c >> 4 << 4 | d >> 4 << 6


@_entry
def quantize_q6_k(weights: Floats, blocks: Bytes) -> None:
    """quantize_row_q6_K_ref."""
    x, w, f = np.zeros(16 * LANES, F), np.empty(16 * LANES, F), np.empty(FIGURES, F)
    packed, steps = np.empty(256, np.uint8), np.empty(256, F)
    count = len(weights) // 256
    for group in range(0, count, LANES // 16):
        members = min(LANES // 16, count - group)
        _spread(weights, group * 256, members * 16, 16, x)
        _search_q6_k(x, w, f)
        for b in range(members):
            at = group + b
            source, block = weights[at * 256 : (at + 1) * 256], blocks[at * 210 : (at + 1) * 210]
            _pack_q6_k(source, f, b * 16, block, packed, steps)


@_compiled
def _magnitude(value: F) -> np.int32:
    """Bits without the sign, which are ordered as the floats are."""
    return np.int32(F(value).view(np.int32) & np.int32(0x7FFFFFFF))


@_entry
def quantize_q8_0(weights: Floats, blocks: Bytes) -> None:
    """quantize_row_q8_0_ref. Its only reduction is a maximum, so a block's own values are side by side."""
    for block in range(len(weights) // 32):
        start, at = block * 32, block * 34
        # Four maxima: one waits for itself 32 times.
        a = b = c = d = np.int32(0)
        for i in range(start, start + 8):
            a, b = max(a, _magnitude(weights[i])), max(b, _magnitude(weights[i + 8]))
            c, d = max(c, _magnitude(weights[i + 16])), max(d, _magnitude(weights[i + 24]))
        scale = np.int32(max(max(a, b), max(c, d))).view(F) / F(127)
        inverse = ONE / scale if scale != ZERO else ZERO
        _write_half(blocks, at, _to_half(scale))
        for i in range(32):
            value = weights[start + i] * inverse
            # roundf: half away from 0. The addend is the float below 1/2, else 0.49999997 would become 1.
            value += F(0.49999997) if value > ZERO else F(-0.49999997)
            # The inverse of a tiny scale is infinite, and what does not fit becomes 0 in the low byte on x86-64.
            blocks[at + 2 + i] = np.int32(value) if abs(value) < F(128) else np.int32(0)
