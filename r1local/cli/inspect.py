"""`r1local inspect`: the tensors of a model file, and how far each is from what it was made of."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from r1local import hardware
from r1local.catalog import load_catalog
from r1local.cli.output import Output
from r1local.cli.progress import Transfer
from r1local.cli.table import show_table
from r1local.prepare import compare, kernels_here, source_of
from r1local.store import find

if TYPE_CHECKING:
    from quantize.comparison import TensorReport


def run_inspect(name: str, *, against: str, as_json: bool) -> None:
    """Raises R1Error, KeyboardInterrupt."""
    output = Output()
    catalog = load_catalog()
    path: Path = find(catalog, name).path
    source = source_of(against, catalog) if against else None
    transfer = Transfer(output, "Comparing")
    try:
        found = compare(
            path, source, threads=hardware.detect().usable_cores,
            on_progress=lambda done, total: transfer.update(path.name, done, total),
        )  # fmt: skip
    finally:
        transfer.close()
        output.close()
    if as_json:
        output.json([_as_json(report) for report in found], indent=2)
        return
    rows: list[tuple[str, ...]] = [("TENSOR", "TYPE", "SHAPE", "BITS", "RMSE", "OFF BY", "COSINE")]
    rows += [_row(report) for report in found]
    if source is None:
        rows = [row[:4] for row in rows]
    show_table(output, rows, leave_out=("SHAPE", "RMSE", "BITS", "COSINE"))
    size, weights = sum(report.size for report in found), sum(report.weights for report in found)
    output.line(
        f"{len(found)} tensors, {weights:,} weights, {size:,} bytes, {8 * size / max(1, weights):.3f} "
        f"bits a weight. {kernels_here()}"
    )


def _row(report: TensorReport) -> tuple[str, ...]:
    shape = " x ".join(map(str, report.shape))
    row = (report.name, report.type, shape, f"{report.bits:.4g}")
    if not report.finite:
        return (*row, "not finite", "-", "-")
    if report.rmse is None or report.cosine is None:
        return (*row, "-", "-", "-")
    relative = "all of it" if report.relative is None else f"{report.relative:.3%}"
    return (*row, f"{report.rmse:.3g}", relative, f"{report.cosine:.7f}")


def _as_json(report: TensorReport) -> dict[str, object]:
    return {
        "name": report.name, "type": report.type, "shape": list(report.shape), "size": report.size,
        "bits_per_weight": report.bits, "rmse": report.rmse, "relative_rmse": report.relative, "cosine": report.cosine,
        "finite": report.finite,
    }  # fmt: skip
