"""A batch that is killed again and again, beside one that is not: the same rows, none twice, none lost?

    python -m benchmarks.batch_killed [--model inside] [--rows 1000] [--kills 10]

At temperature 0. Texts may differ where two tokens are nearly equally likely: other rows beside one in a decode call
change the last bits of its sums. They are counted.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any


def command(source: Path, target: Path, model: str) -> list[str]:
    return [
        sys.executable, "-m", "r1local", "batch", str(source), "-o", str(target), "-m", model, "--temperature", "0",
        "-n", "400",
    ]  # fmt: skip


def records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def journalled(target: Path) -> int:
    journal = target.with_name(target.name + ".journal")
    return journal.read_bytes().count(b"\n") if journal.exists() else 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="inside")
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--kills", type=int, default=10)
    given = parser.parse_args()
    numbers = random.Random(7)
    with tempfile.TemporaryDirectory() as folder:
        source, whole, broken = (Path(folder) / name for name in ("in.jsonl", "whole.jsonl", "broken.jsonl"))
        rows = [
            {"id": f"row-{number}", "prompt": f"What is {numbers.randrange(10, 999)} + {numbers.randrange(10, 999)}?"}
            for number in range(given.rows)
        ]
        source.write_text("".join(json.dumps(row) + "\n" for row in rows))
        began = time.perf_counter()
        subprocess.run(command(source, whole, given.model), check=True, capture_output=True)
        seconds = time.perf_counter() - began
        kept = []
        for _ in range(given.kills):
            process = subprocess.Popen(command(source, broken, given.model), stderr=subprocess.DEVNULL)
            time.sleep(numbers.uniform(0.3, 1.5 * seconds / given.kills))
            process.kill()
            process.wait()
            kept.append(max(0, journalled(broken) - 1))
        subprocess.run(command(source, broken, given.model), check=True, capture_output=True)
        one, other = records(whole), records(broken)
        ids = [record["id"] for record in other]
        print(f"unkilled: {seconds:.0f} s; rows finished after each kill: {kept}")
        print(f"same ids in the same order: {ids == [record['id'] for record in one] == [row['id'] for row in rows]}")
        print(f"rows twice: {len(ids) - len(set(ids))}; errors: {sum('error' in record for record in other)}")
        print(f"lines in the journal: {journalled(broken) - 1} of {given.rows}")
        pairs = list(zip(one, other, strict=True))
        differing = sum((a["think"], a["answer"]) != (b["think"], b["answer"]) for a, b in pairs)
        print(f"other texts: {differing}; other answers: {sum(a['answer'] != b['answer'] for a, b in pairs)}")


if __name__ == "__main__":
    main()
