"""How much memory a model takes, by part and device. Formulas follow what llama.cpp allocates.

They were found by letting the library lay models out without loading them (`llama_model_params.no_alloc`);
benchmarks/planned_memory.py and the tests do so again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from r1local.plan.shape import Shape

MIB = 1 << 20
GIB = 1 << 30

PROCESS_BYTES = 50 * MIB
"""Python with its packages and the C library, before a model is loaded; of this process, its own figure is taken."""
MODEL_BYTES = 9 * MIB
"""What a model takes however small it is: its graph, its threads, what the interpreter gathers meanwhile."""
VOCABULARY_BYTES = 235
"""What the library keeps in memory for one token's text, and the merges that make it."""
CANDIDATE_BYTES = 12
"""What sampling keeps for one token of the vocabulary, for each sequence."""
GPU_CONTEXT_BYTES = {"cuda": 330 * MIB, "rocm": 330 * MIB, "vulkan": 100 * MIB, "metal": 0}
"""What a driver takes of the card besides our buffers (logs: 170 to 330 MiB beside CUDA)."""

_CTX_STEP = 256  # cells of the KV cache come in such numbers
_FLOAT = 4
_COPIES = 4


@dataclass(frozen=True, slots=True)
class Use:
    """What one device's memory is used for, in bytes."""

    device: str
    weights: int = 0
    kv_cache: int = 0
    compute: int = 0
    """Intermediate results of one batch."""
    output: int = 0
    """Logits."""
    other: int = 0
    """Python and the vocabulary, or what a driver takes of its card."""
    room: int = 0
    """Bytes that were free, less the margin."""

    @property
    def total(self) -> int:
        return self.weights + self.kv_cache + self.compute + self.output + self.other

    @property
    def fits(self) -> bool:
        return self.total <= self.room


def padded_context(n_ctx: int) -> int:
    """Cells of the KV cache that the library makes for `n_ctx` tokens."""
    return -(-n_ctx // _CTX_STEP) * _CTX_STEP


@dataclass(frozen=True, slots=True)
class Batch:
    """What decides how large the intermediate results of one decode call are."""

    n_ctx: int
    """Of one sequence."""
    n_ubatch: int
    n_outputs: int
    """Tokens whose logits are wanted."""
    flash_attention: bool = True
    kv_type: str = "f16"

    @property
    def column(self) -> int:
        """Bytes of one float for each token."""
        return min(self.n_ubatch, self.n_ctx) * _FLOAT

    @property
    def mask(self) -> int:
        """Which cell each token may see."""
        return self.column // _FLOAT * padded_context(self.n_ctx) * (2 if self.flash_attention else _FLOAT)


def compute_bytes(shape: Shape, batch: Batch, *, on_gpu: bool) -> int:
    """The compute buffer of a device that runs layers: the widest moment of a batch.

    That is in the feed-forward part (gate, up and their product, and the layer's input beside them), or in attention
    where its scores are written out, or where logits of many tokens are wanted.
    """
    # Beside a GPU the embeddings stay with the processor. A quantized cache is rotated, which ends the life of one
    # intermediate result earlier.
    inputs = (2 if on_gpu else 4 if batch.kv_type == "f16" else 3) * shape.hidden
    kv_width = shape.kv_heads * shape.key_size
    if not batch.flash_attention and not on_gpu:
        inputs = min(inputs, 3 * shape.hidden + 2 * kv_width)  # keys and values have places of their own then
    feed_forward = (3 * shape.feed_forward + inputs) * batch.column + batch.mask
    attention = 0
    if not batch.flash_attention:
        scores = shape.heads * padded_context(batch.n_ctx)
        attention = (scores + 5 * shape.hidden + 2 * kv_width) * batch.column + batch.mask
    logits = min(batch.n_outputs, batch.n_ubatch) * shape.vocabulary * _FLOAT + 2 * shape.hidden * batch.column
    return max(feed_forward, attention, logits)


def inputs_bytes(shape: Shape, batch: Batch) -> int:
    """The processor's compute buffer beside a GPU: embeddings of a batch, what comes back, and the mask."""
    return 2 * shape.hidden * batch.column + batch.mask


def output_bytes(shape: Shape, n_seq_max: int) -> int:
    """Where logits are handed out: one row of the vocabulary a sequence."""
    return n_seq_max * shape.vocabulary * _FLOAT


def layers_kv_bytes(shape: Shape, layers: int, n_ctx: int, kv_type: str) -> int:
    """The KV cache of so many layers."""
    return layers * shape.kv_bytes(kv_type) * padded_context(n_ctx)


@dataclass(frozen=True, slots=True)
class Settings:
    """What decides about memory, all of it chosen."""

    n_ctx: int
    kv_type: str
    n_ubatch: int
    n_seq_max: int
    flash_attention: bool
    gpu_layers: tuple[int, ...]
    """Layers on each GPU from the last one back, the output counted as one more; () without a GPU."""
    repack: bool = False
    """Weights copied into this processor's own layout, rather than used as they lie in the file."""
    kv_unified: bool = True
    """One pool of cells for all sequences; otherwise each has an equal part of its own, and looks at nothing else."""

    @property
    def n_ctx_seq(self) -> int:
        """Tokens that one sequence may have."""
        return self.n_ctx if self.kv_unified else self.n_ctx // self.n_seq_max


@dataclass(frozen=True, slots=True)
class Placement:
    """What of a model lies on one device."""

    layers: range
    output: bool
    """Whether the logits are made here."""

    def read_bytes(self, shape: Shape) -> int:
        """Weights read here for one token."""
        return sum(shape.layer_bytes[layer] for layer in self.layers) + (shape.output_bytes if self.output else 0)


def placements(shape: Shape, gpu_layers: Sequence[int]) -> tuple[Placement, ...]:
    """The processor's first: it has the first layers, the GPUs the last ones in their order, and the very last of all
    is the output (llama-model.cpp, dev_layer).
    """
    first = max(0, shape.layers + 1 - sum(gpu_layers))
    found = [Placement(range(min(first, shape.layers)), output=first > shape.layers)]
    for count in gpu_layers:
        end = first + count
        found.append(Placement(range(first, min(end, shape.layers)), output=count > 0 and end > shape.layers))
        first = end
    return tuple(found)


def uses(
    shape: Shape, settings: Settings, gpus: Sequence[tuple[str, str]], process_bytes: int = PROCESS_BYTES
) -> tuple[Use, ...]:
    """The processor's share first, then each GPU's. `gpus`: name and kind of each. Rooms are left at 0."""
    n_ctx, kv_type = settings.n_ctx, settings.kv_type
    batch = Batch(settings.n_ctx_seq, settings.n_ubatch, settings.n_seq_max, settings.flash_attention, kv_type)
    host, *cards = placements(shape, settings.gpu_layers)
    host_weights = host.read_bytes(shape) + (0 if host.output and shape.tied else shape.embedding_bytes)
    found = [
        Use(
            "processor",
            weights=host_weights,
            kv_cache=layers_kv_bytes(shape, len(host.layers), n_ctx, kv_type),
            compute=inputs_bytes(shape, batch)
            if sum(settings.gpu_layers)
            else compute_bytes(shape, batch, on_gpu=False),
            output=output_bytes(shape, settings.n_seq_max),
            other=process_bytes + _program_bytes(shape, settings),
        )
    ]
    card_compute = compute_bytes(shape, batch, on_gpu=True)
    if host.layers:
        # In long batches the GPU computes the processor's layers too, and their weights pass through here.
        card_compute += shape.largest_bytes
    if len([count for count in settings.gpu_layers if count]) > 1 and not host.layers:
        # Several cards work on several batches at once, each with a mask of its own (GGML_SCHED_MAX_COPIES).
        card_compute += (_COPIES - 1) * batch.mask
    for (name, kind), card in zip(gpus, cards, strict=True):
        if not card.layers and not card.output:
            found.append(Use(name))
            continue
        found.append(
            Use(
                name,
                weights=card.read_bytes(shape),
                kv_cache=layers_kv_bytes(shape, len(card.layers), n_ctx, kv_type),
                compute=card_compute,
                other=GPU_CONTEXT_BYTES.get(kind, 0),
            )
        )
    return tuple(found)


def _program_bytes(shape: Shape, settings: Settings) -> int:
    """What is nobody's buffer: the vocabulary, candidates to sample from, and what goes into the widest product. That
    is a batch quantized (8.5 bits a float and a little), or without flash attention its scores in f16.
    """
    per_token = VOCABULARY_BYTES + CANDIDATE_BYTES * settings.n_seq_max
    widest = shape.feed_forward * 9 // 8
    if not settings.flash_attention and sum(settings.gpu_layers) <= shape.layers:
        widest = max(widest, 2 * shape.heads * padded_context(settings.n_ctx_seq))
    return MODEL_BYTES + per_token * shape.vocabulary + min(settings.n_ubatch, settings.n_ctx_seq) * widest
