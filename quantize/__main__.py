"""`python -m quantize SOURCE -t TYPE`: the converter without the rest of r1local."""

from __future__ import annotations

import argparse
import os
import sys
import threading
import time
from pathlib import Path

from quantize.conversion import Options
from quantize.convert import CheckpointConversion, convert_checkpoint, origin_of, requantize
from quantize.errors import QuantizeError
from quantize.file_types import FILE_TYPES
from quantize.imatrix import read_imatrix
from quantize.kernels import CHOICES, Kernels
from quantize.layout import Layout
from quantize.recipes import wish_of


def main() -> int:
    """0 when it was done, 1 with one sentence on stderr when it was not, 130 when it was stopped."""
    given = _arguments()
    try:
        return _run(given)
    except QuantizeError as error:
        print(f"{error.message}\n{error.hint}".strip(), file=sys.stderr)
    except OSError as error:
        print(f"{error.strerror or error}: {error.filename or given.output or given.source}", file=sys.stderr)
    except KeyboardInterrupt:
        print("\nStopped. The same command goes on from here.", file=sys.stderr)
        return 130
    return 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m quantize", description="Safetensors or GGUF to GGUF.")
    parser.add_argument("source", type=Path, help="a checkpoint folder, or a .gguf file")
    parser.add_argument("-t", "--type", default="Q4_K_M", help=f"one of {', '.join(FILE_TYPES)}")
    parser.add_argument("-o", "--output", type=Path, help="without it: beside the source, named after it and the type")
    parser.add_argument("--imatrix", type=Path, help="an importance matrix, .gguf or .dat")
    parser.add_argument("--kernels", choices=CHOICES, default="auto")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--pure", action="store_true", help="every tensor of the same type")
    parser.add_argument("--leave-output", action="store_true", help="output.weight stays as it is")
    parser.add_argument("--output-type", default="", help="the type of output.weight")
    parser.add_argument("--embedding-type", default="", help="the type of token_embd.weight")
    parser.add_argument(
        "--tensor-type", action="append", default=[], metavar="REGEX=TYPE", help="of the tensors whose name matches"
    )
    parser.add_argument("--from-quantized", action="store_true", help="allow a source that lost something already")
    parser.add_argument("--plan", action="store_true", help="only say what the result would be, to the byte")
    return parser.parse_args()


def _run(given: argparse.Namespace) -> int:
    wish = wish_of(
        given.type, pure=given.pure, leave_output=given.leave_output, output_type=given.output_type,
        embedding_type=given.embedding_type, tensor_types=given.tensor_type,
    )  # fmt: skip
    imatrix = read_imatrix(given.imatrix) if given.imatrix else None
    source: Path = given.source
    is_folder = source.is_dir()
    stem = origin_of(source).name if is_folder else source.stem
    target = given.output or source.absolute().parent / f"{stem}-{wish.file_type}.gguf"
    if given.plan:
        if not is_folder:
            raise QuantizeError("--plan needs a checkpoint folder, of which config.json is enough.")
        _print_plan(CheckpointConversion(source, wish, origin_of(source), imatrix).layout)
        return 0
    kernels, cancel, started = Kernels(given.kernels), threading.Event(), time.monotonic()
    options = Options(kernels, given.threads, cancel, _Line())
    if is_folder:
        convert_checkpoint(source, target, wish, options, imatrix=imatrix)
    else:
        requantize(source, target, wish, options, imatrix=imatrix, from_quantized=given.from_quantized)
    print(f"\r{target}: {target.stat().st_size:,} bytes in {time.monotonic() - started:.1f} s", file=sys.stderr)
    return 0


def _print_plan(layout: Layout) -> None:
    for planned in layout.tensors:
        print(f"{planned.stored.name}\t{planned.stored.type}\t{planned.stored.size}")
    print(f"{len(layout.tensors)} tensors, {layout.parameters} weights, {layout.data_size} bytes of data")


class _Line:
    """One line on stderr that grows in percent."""

    def __init__(self) -> None:
        self._told = -1

    def __call__(self, done: int, total: int) -> None:
        percent = 100 * done // max(1, total)
        if percent > self._told:
            self._told = percent
            print(f"\r{percent} %", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
