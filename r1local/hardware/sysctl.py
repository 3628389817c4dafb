"""macOS's own table of facts about the machine."""

from __future__ import annotations

import subprocess

_PATIENCE = 2.0  # seconds


def answers(*names: str) -> dict[str, str]:
    """What the system says to these names, and to all below them; those it does not know are missing."""
    try:
        # -i: go on after a name that this version of the system does not know.
        result = subprocess.run(
            ["/usr/sbin/sysctl", "-i", *names],
            capture_output=True, text=True, errors="replace", timeout=_PATIENCE, check=False,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return {}
    return {name: value.strip() for line in result.stdout.splitlines() for name, _, value in [line.partition(":")]}
