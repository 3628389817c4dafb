"""Numbers for people."""

from __future__ import annotations


def amount(count: float) -> str:
    """Bytes on disks and networks, in powers of 1000 as those are counted: 4.68 GB, 98.4 MB, 913 bytes."""
    if count >= 1e9 * 0.9995:
        return f"{count / 1e9:.2f} GB"
    if count >= 1e5:
        return f"{count / 1e6:.1f} MB"
    return f"{count:,.0f} bytes"
