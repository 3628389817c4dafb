"""The plans of nine models on ten machines, as a table.

`python -m tests.plans > tests/data/plans.md` writes it anew. Read what changed before you keep it: each line is a
promise to somebody with such a machine.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

from r1local.catalog import load_catalog
from r1local.hardware import Hardware
from r1local.hardware.description import from_json
from r1local.plan.memory import GIB
from r1local.plan.speed import Speed
from r1local.prepare.fit import fit_of

DATA = Path(__file__).parent / "data"
TABLE = DATA / "plans.md"
MACHINES = sorted(path.stem for path in (DATA / "hardware" / "machines").glob("*.json"))
MODELS = (
    "r1-qwen-1.5b", "r1-qwen-7b", "r1-llama-8b", "r1-0528-qwen3-8b", "openr1-7b", "r1-qwen-14b", "r1-qwen-32b",
    "qwq-32b", "r1-llama-70b",
)  # fmt: skip
COLUMNS = ("machine", "model", "quantization", "verdict", "context", "KV", "GPU layers", "GiB", "tokens/s")
HEAD = f"""\
What `r1local fit` plans for the machines in `hardware/machines`, each model in its recommended quantization.
GPU layers: of each GPU, the output counted as one more. GiB: of the processor, then of each GPU. Tokens/s: of a
reply; ~ where others' measurements are met less well. `python -m tests.plans > tests/data/plans.md` writes it anew.

| {" | ".join(COLUMNS)} |
|{"---|" * len(COLUMNS)}
"""


def machine(name: str) -> Hardware:
    return from_json(json.loads((DATA / "hardware" / "machines" / f"{name}.json").read_text()))


def row(machine_name: str, model_name: str) -> str:
    """One line of the table."""
    catalog = load_catalog()
    model, _ = catalog.resolve(model_name)
    fit = fit_of(model, catalog.quantization(model.recommended), machine(machine_name))
    plan = fit.plan
    cells = (
        machine_name,
        model.id,
        fit.quantization.name,
        fit.outlook.word,
        f"{plan.n_ctx:,}",
        plan.kv_type,
        " + ".join(map(str, plan.settings.gpu_layers)) or "-",
        " + ".join(f"{use.total / GIB:.1f}" for use in plan.memory),
        _range(fit.outlook.decode),
    )
    return f"| {' | '.join(cells)} |"


def _range(speed: Speed) -> str:
    return f"{'' if speed.predictable else '~'}{speed.low:.1f} to {speed.high:.1f}"


def rows() -> Iterator[str]:
    for machine_name in MACHINES:
        for model_name in MODELS:
            yield row(machine_name, model_name)


if __name__ == "__main__":
    sys.stdout.write(HEAD + "".join(f"{line}\n" for line in rows()))
