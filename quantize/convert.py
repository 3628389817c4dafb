"""From a source to a GGUF file: the order of the work."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gguf import GGML_QUANT_VERSION, GGUFValueType

from quantize.architectures import architecture_of, read_config
from quantize.architectures.decoder import Wanted
from quantize.checkpoint import INDEX, is_ignored, shard_names, shard_tensors
from quantize.config import CONFIG, ModelConfig
from quantize.conversion import Conversion, Options
from quantize.errors import BadRequest, BadSource, QuantizeError, Unsupported
from quantize.file_types import FLOATS, file_type_number
from quantize.gguf_format import GgufFile, Key, StoredTensor, make_key
from quantize.imatrix import Imatrix
from quantize.layout import Layout, Planned, arrange, plan
from quantize.metadata import Origin, general_keys
from quantize.parts import read_parts
from quantize.recipes import Shape, Wish
from quantize.vocabulary import Vocabulary

_CONVERTED = ("qwen2", "qwen3", "llama")
_MOST_LAYERS = 512  # what the C library's arrays hold, of heads as well


class CheckpointConversion:
    """A Hugging Face checkpoint on its way to a GGUF file, one shard at a time, in any order.

    Everything but the weights has to be in the folder: config.json, the tokenizer, the index of the shards.
    """

    def __init__(self, folder: Path, wish: Wish, origin: Origin, imatrix: Imatrix | None = None) -> None:
        """Raises BadSource, Unsupported, BadRequest."""
        self.folder, self.wish, self.origin, self.imatrix = folder, wish, origin, imatrix
        self.config: ModelConfig = read_config(folder / CONFIG)
        self.shards = shard_names(folder)
        """The files with weights; what each should hold, where an index says so."""
        output_type = self._output_type() if wish.leave_output else ""
        self.layout: Layout = plan(self.config, wish, has_imatrix=imatrix is not None, output_type=output_type)
        self._by_source = {p.wanted.source: p for p in self.layout.tensors if p.wanted.source}
        self._check_index()
        self._vocabulary: Vocabulary | None = None

    def _check_index(self) -> None:
        """Whether the index speaks of the model that config.json describes: known before any shard is here."""
        listed: set[str] = set()
        for names in self.shards.values():
            if names is None:
                return
            listed.update(name for name in names if not is_ignored(name))
        for name in sorted(listed - set(self._by_source)):
            self._refuse_unknown(INDEX, name)
        self._refuse_missing(set(self._by_source) - listed)

    def _refuse_unknown(self, where: str, name: str) -> None:
        if name == "lm_head.weight" and self.config.tied:
            return  # a copy of the embedding
        raise BadSource(
            f"{where} holds {name[:80]}, which no {self.config.model_class[:80]} has: without it the result would be "
            "another model."
        )

    def _refuse_missing(self, names: set[str]) -> None:
        if names:
            raise BadSource(
                f"The checkpoint lacks {len(names)} tensors, {min(names)} among them.", "Fetch the whole checkpoint."
            )

    def _output_type(self) -> str:
        """The type of lm_head, where its shard is here already."""
        for shard, names in self.shards.items():
            if (names is None or "lm_head.weight" in names) and (self.folder / shard).exists():
                found = shard_tensors(self.folder, shard, names).get("lm_head.weight")
                return found.type if found else ""
        return ""

    @contextmanager
    def open(self, target: Path, options: Options, source: str) -> Iterator[Conversion]:
        """Start or go on with the work: the header is written and the vocabulary proved before any weight is touched.

        Raises TokenizerDiffers, NoSpace.
        """
        architecture = architecture_of(self.config.model_class)
        self._vocabulary = self._vocabulary or Vocabulary(
            self.folder, self.config.fields, self.config.vocabulary, architecture.name
        )
        general = general_keys(self.folder, self.origin, self.config.fields, architecture.name, self.layout.parameters)
        keys = [*general, *architecture.keys(self.config), *self._vocabulary.keys]
        keys += _closing_keys(self.wish, self.imatrix)
        conversion = Conversion(target, self.layout, keys, self.imatrix, source, options)
        with conversion:
            try:
                self._vocabulary.prove(conversion.part)
            except QuantizeError:
                conversion.discard()
                raise
            conversion.write_made()
            yield conversion

    def is_used_up(self, conversion: Conversion, shard: str) -> bool:
        """Whether every tensor of a shard is written, so that it is needed no more."""
        names = self.shards[shard]
        wanted = self._by_source if names is None else {name for name in names if name in self._by_source}
        return all(conversion.is_finished(self._by_source[name].wanted.name) for name in wanted)

    def take(self, conversion: Conversion, shard: str) -> None:
        """Convert what one shard holds. Raises BadSource, KeyboardInterrupt."""
        conversion.write(self._sources(shard))

    def check(self) -> None:
        """Look at all shards before the work. Raises BadSource for tensors that are missing or nobody knows."""
        found: set[str] = set()
        for shard in self.shards:
            for planned, _, _ in self._sources(shard):
                if planned.wanted.source in found:
                    raise BadSource(f"{planned.wanted.source} is in two shards.")
                found.add(planned.wanted.source)
        self._refuse_missing(set(self._by_source) - found)

    def _sources(self, shard: str) -> list[tuple[Planned, Path, StoredTensor]]:
        sources = []
        for name, stored in shard_tensors(self.folder, shard, self.shards[shard]).items():
            planned = self._by_source.get(name)
            if planned is None:
                self._refuse_unknown(shard, name)
                continue
            if stored.shape != planned.wanted.shape:
                raise BadSource(
                    f"{name[:80]} has the shape {list(stored.shape)[:8]}, and config.json speaks of "
                    f"{list(planned.wanted.shape)}."
                )
            if stored.type not in FLOATS:
                raise Unsupported(f"{name[:80]} is stored as {stored.type}.", "Take a version in bf16, f16 or f32.")
            sources.append((planned, self.folder / shard, stored))
        return sources


def convert_checkpoint(
    folder: Path, target: Path, wish: Wish, options: Options, *, origin: Origin | None = None,
    imatrix: Imatrix | None = None,
) -> Layout:  # fmt: skip
    """Convert a checkpoint that is wholly here. Raises QuantizeError, OSError, KeyboardInterrupt.

    After an interruption the same call goes on where it was.
    """
    job = CheckpointConversion(folder, wish, origin or origin_of(folder), imatrix)
    job.check()
    with job.open(target, options, "\n".join(_stamp(folder / shard) for shard in job.shards)) as conversion:
        for shard in job.shards:
            job.take(conversion, shard)
        conversion.finish()
    return job.layout


def requantize(
    source: Path, target: Path, wish: Wish, options: Options, *, imatrix: Imatrix | None = None,
    from_quantized: bool = False,
) -> Layout:  # fmt: skip
    """A GGUF file to one of another type. Raises QuantizeError, OSError, KeyboardInterrupt.

    from_quantized: whether weights that lost something already may lose more.
    """
    parts = read_parts(source)
    header = parts[0]
    architecture = str(header.value("general.architecture", ""))
    if architecture not in _CONVERTED or header.value(f"{architecture}.expert_count", 0):
        raise Unsupported(
            f"Models of the kind {architecture[:40]} are not quantized.", f"There are {', '.join(_CONVERTED)}."
        )
    if target.exists() and any(target.samefile(part.path) for part in parts):
        raise BadRequest(f"{target.name} cannot be made of itself.", "Name another file.")
    places = {tensor.name: (part.path, tensor) for part in parts for tensor in part.tensors}
    wanted = [Wanted(tensor.name, tensor.name, tensor.shape) for _, tensor in places.values()]
    types = {name: tensor.type for name, (_, tensor) in places.items()}
    layout = arrange(wanted, types, _shape(header, architecture), wish, has_imatrix=imatrix is not None)
    sources = [(planned, *places[planned.wanted.name]) for planned in layout.tensors]
    again = [s.name for p, _, s in sources if s.type not in FLOATS and s.type != p.stored.type]
    if again and not from_quantized:
        raise BadRequest(
            f"{source.name} is quantized already: {again[0]} would lose a second time.",
            "Take a file in F16, BF16 or F32, or allow it with --from-quantized.",
        )
    left_out = ("general.quantization_version", "general.file_type", "split.no", "split.count", "split.tensors.count")
    keys = [key for key in header.keys if key.name not in left_out and not key.name.startswith("quantize.imatrix.")]
    keys += _closing_keys(wish, imatrix)
    stamp = "\n".join(_stamp(part.path) for part in parts)
    with Conversion(target, layout, keys, imatrix, stamp, options) as conversion:
        conversion.write(sources)
        conversion.finish()
    return layout


def _shape(header: GgufFile, architecture: str) -> Shape:
    def number(key: str, default: int) -> int:
        found = next((entry for entry in header.keys if entry.name == f"{architecture}.{key}"), None)
        if found is None:
            return default
        if found.type != GGUFValueType.UINT32 or not 0 < found.value <= _MOST_LAYERS:
            raise BadSource(f"{header.path.name} has a {key} that makes no sense.")
        return int(found.value)

    heads = number("attention.head_count", 1)
    return Shape(architecture, number("block_count", 1), heads, number("attention.head_count_kv", heads))


def _closing_keys(wish: Wish, imatrix: Imatrix | None) -> list[Key]:
    """What the quantizer writes behind everything else."""
    integer = GGUFValueType.UINT32
    return [
        make_key("general.quantization_version", GGML_QUANT_VERSION, integer),
        make_key("general.file_type", file_type_number(wish.file_type), integer),
        *(imatrix.keys() if imatrix else []),
    ]


def origin_of(folder: Path) -> Origin:
    """What a folder is called; of a snapshot in the shared cache the repository and the commit it is of."""
    path = folder.resolve()
    home = path.parent.parent.name
    if path.parent.name == "snapshots" and home.startswith("models--"):
        repository = "/".join(home.split("--")[1:])
        return Origin(repository.rpartition("/")[2], repository, path.name)
    return Origin(path.name)


def _stamp(path: Path) -> str:
    try:
        status = path.stat()
    except OSError as error:
        raise BadSource(f"{path.name} is missing in {path.parent}.", "Fetch the whole checkpoint.") from error
    return f"{path.name} {status.st_size} {status.st_mtime_ns}"
