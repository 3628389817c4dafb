"""`r1local show`: what is known of one model here."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from typing import Any

from r1local import hardware
from r1local.catalog import Model, load_catalog
from r1local.cli.list import ago
from r1local.cli.output import Output, size
from r1local.gguf_header import read_header
from r1local.gguf_types import TENSOR_TYPES, ArrayInfo, GgufHeader
from r1local.plan import choose, shape_of_file
from r1local.prepare import file_types
from r1local.prepare.sizes import sizes_of
from r1local.store import LocalModel, find
from r1local.store.usage import last_used
from r1local.terminal import clean_line

_LONGEST_VALUE = 160


def run_show(name: str, *, as_json: bool, template: bool, metadata: bool) -> None:
    """Raises R1Error."""
    output = Output()
    local = find(load_catalog(), name)
    header = read_header(local.path)
    if template:
        output.data(header.chat_template or "")
        output.end_data()
        return
    facts = describe(local, header)
    if as_json:
        output.json(facts, indent=2)
        return
    for title, entries in facts.items():
        if title == "metadata" and not metadata:
            continue
        output.data(f"{title}\n")
        for key, value in entries.items():
            output.data(f"  {key:<14} {_one_line(value, is_path=key == 'path')}\n")
    if not metadata:
        output.line("--metadata shows every key of the file, --template its chat template.")


def describe(local: LocalModel, header: GgufHeader) -> dict[str, dict[str, Any]]:
    """Everything about a model file, by topic."""
    model = local.model
    known_templates = model.templates if model else ()
    template = header.chat_template
    digest = hashlib.sha256(template.encode("utf-8", "replace")).hexdigest() if template else ""
    facts: dict[str, dict[str, Any]] = {
        "file": {
            "name": local.name,
            "path": str(local.path),
            "origin": local.origin + (f" ({local.repo.id})" if local.repo else ""),
            "size": f"{header.file_size:,} bytes ({size(header.file_size)})",
            "parts": 1 + len(header.parts),
            "last used": ago(last_used(local.path)),
        },
        "model": {
            "title": str(header.metadata.get("general.name", "-")),
            "architecture": header.architecture,
            "parameters": f"{header.parameters:,}",
            "layers": header.integer("block_count"),
            "context": f"{header.integer('context_length'):,} tokens",
            "vocabulary": f"{_length(header, 'tokenizer.ggml.tokens'):,} tokens",
            "quantization": header.quantization,
            "bits/weight": f"{bits_per_weight(header):.2f}",
            "thinks": {True: "yes", False: "no", None: "not known"}[model.thinks if model else None],
            "licence": model.licences if model else str(header.metadata.get("general.license", "not stated")),
        },
        "tensors": tensors_by_type(header),
        "template": {
            "length": f"{len(template):,} characters" if template else "none",
            "sha256": digest or "-",
            "published": (
                "yes" if digest in known_templates else "no: whoever made the file changed it"
            ) if known_templates and template else "not known",
        },
    }  # fmt: skip
    if model is not None and model.scores:
        facts["scores"] = {**model.scores, "source": model.scores_source}
    facts["memory"] = _memory(header)
    if sizes := _other_sizes(model):
        facts["tensors in other types"] = sizes
    facts["metadata"] = {key: _value(value) for key, value in header.metadata.items()}
    return facts


def bits_per_weight(header: GgufHeader) -> float:
    stored = sum(tensor.size for tensor in header.tensors)
    return 8 * stored / header.parameters if header.parameters else 0.0


def tensors_by_type(header: GgufHeader) -> dict[str, str]:
    """For every block type: how many tensors, and their share of the bytes."""
    counts: Counter[str] = Counter()
    stored: Counter[str] = Counter()
    for tensor in header.tensors:
        counts[tensor.type_name] += 1
        stored[tensor.type_name] += tensor.size
    total = max(1, sum(stored.values()))
    bits = {name: 8 * block_bytes / weights for name, weights, block_bytes in TENSOR_TYPES.values()}
    return {
        name: f"{counts[name]} tensors, {share / total:.1%} of the bytes, {bits[name]:g} bits/weight"
        for name, share in stored.most_common()
    }


def _memory(header: GgufHeader) -> dict[str, str]:
    machine = hardware.detect()
    plan = choose(shape_of_file(header), machine)
    found = {}
    for use in (use for use in plan.memory if use.total):
        found[clean_line(use.device)] = (
            f"{size(use.total)} of {size(use.room)} that can be used: weights {size(use.weights)}, KV cache "
            f"{size(use.kv_cache)}, compute {size(use.compute)}, other {size(use.output + use.other)}"
        )
    return {**found, "context": f"{plan.n_ctx:,} tokens in {plan.kv_type}, as a chat would get now"}


def _other_sizes(model: Model | None) -> dict[str, str]:
    """What the model's tensors would take in each type; nothing for kinds that are not converted."""
    if model is None:
        return {}
    types = [quantization.name for quantization in load_catalog().quantizations]
    sizes = sizes_of(model, [name for name in types if name in file_types()])
    return {name: f"{count:,} bytes ({size(count)})" for name, count in sizes.items()}


def _length(header: GgufHeader, key: str) -> int:
    value = header.metadata.get(key)
    return value.length if isinstance(value, ArrayInfo) else 0


def _value(value: Any) -> Any:
    if isinstance(value, ArrayInfo):
        return f"[{value.length:,} elements]"
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)  # JSON knows no such number
    return value


def _one_line(value: Any, *, is_path: bool = False) -> str:
    text = clean_line(str(value))
    return text if len(text) <= _LONGEST_VALUE or is_path else text[:_LONGEST_VALUE] + "…"
