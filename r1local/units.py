"""Numbers and long texts for people."""

from __future__ import annotations


def amount(count: float) -> str:
    """Bytes on disks and networks, in powers of 1000 as those are counted: 4.68 GB, 98.4 MB, 913 bytes."""
    if count >= 1e9 * 0.9995:
        return f"{count / 1e9:.2f} GB"
    if count >= 1e5:
        return f"{count / 1e6:.1f} MB"
    return f"{count:,.0f} bytes"


def seconds(value: float) -> str:
    """A duration for people: 4.2 s, 15 s, 2 min 5 s, 1 h 4 min."""
    if value < 9.95:
        return f"{value:.1f} s"
    whole = round(value)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def shortened(text: str, most: int = 60) -> str:
    """At most so many characters of it; where some are left out, the last one says so."""
    return text if len(text) <= most else text[: most - 1] + "…"
