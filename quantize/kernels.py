"""Who computes the blocks: the C library, or compiled Python that makes the same bytes several times faster."""

from __future__ import annotations

from typing import Literal, get_args

from quantize import fast, ggml
from quantize.errors import BadRequest
from quantize.ggml import Bytes, Floats

Choice = Literal["auto", "c", "fast"]
CHOICES: tuple[Choice, ...] = get_args(Choice)


# The grids of the IQ types are searched with products of four weights; where these overflow, the C library ends the
# process. Weights of models are below 1,000.
_LARGEST = 1e9


def fits(block_type: str, largest: float) -> bool:
    """Whether weights up to that absolute value can be handed to a quantizer."""
    return largest < _LARGEST or not block_type.startswith("IQ")


class Kernels:
    """Quantizers of every type. Threads may use one object together."""

    def __init__(self, choice: Choice = "auto") -> None:
        """Raises BadRequest when the fast ones are asked for and cannot be had."""
        self._why_not_fast = "It was asked for." if choice == "c" else fast.why_not() or ""
        if choice == "fast" and self._why_not_fast:
            raise BadRequest(
                f"There are no fast kernels here. {self._why_not_fast}", "The C library does it with --kernels c."
            )
        self.uses_fast = not self._why_not_fast

    @property
    def sentence(self) -> str:
        """Who computes what."""
        if self.uses_fast:
            return f"Compiled kernels for {', '.join(fast.KERNELS)}; the C library for the rest."
        return f"The C library for every type. {self._why_not_fast}"

    def _is_fast(self, block_type: str) -> bool:
        return self.uses_fast and block_type in fast.KERNELS

    def quantize(self, block_type: str, rows: Floats, out: Bytes, importance: Floats | None) -> bool:
        """Rows (n, width) to blocks (n, bytes of a row). False when a scale came out beyond all numbers."""
        if importance is None and self._is_fast(block_type):
            fast.quantize_rows(block_type, rows, out)
        else:
            ggml.quantize_rows(block_type, rows, out, importance)
        return ggml.are_blocks_valid(block_type, out)
