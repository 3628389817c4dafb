"""`r1local chat`: one question, or a conversation."""

from __future__ import annotations

import dataclasses
import os
import signal
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from r1local import hardware
from r1local.answers import Judge
from r1local.catalog import Catalog, load_catalog
from r1local.chat_types import Sampling, ThinkMode
from r1local.cli.integrity import check_once
from r1local.cli.output import Output
from r1local.cli.plan_view import plan_line
from r1local.cli.reply import ReplyView, stats_line
from r1local.conversation import Conversation, with_system
from r1local.engine import EngineOptions, LlamaEngine, open_engine
from r1local.errors import ModelNotFound, UsageError
from r1local.events import AnswerDelta, Done, ThinkDelta, as_json
from r1local.prepare.fit import pull_name, recommended
from r1local.settings import Settings, load_settings, merge_sampling, parse_settings
from r1local.store import LocalModel, all_local, find
from r1local.store.usage import mark_used

# What is read from a pipe at most; far above any context.
_MAX_INPUT = 64 << 20
_BYTES_A_CORE = 8e9  # bytes a second of weights


@dataclass(frozen=True, slots=True)
class ChatFlags:
    """The command line of `chat`."""

    prompt: str
    settings: dict[str, Any]
    """Flags that config.toml knows too, by its names."""
    stop: tuple[str, ...] = ()
    vote_stop: bool = True
    json: bool = False
    events: bool = False
    raw: bool = False
    stats: bool = False
    yes: bool = False
    """Pull a model that is not here without asking."""
    offline: bool = False
    plain: bool = False
    """A conversation line by line."""


def run_chat(flags: ChatFlags) -> None:
    """Raises R1Error; raises KeyboardInterrupt when the reply was interrupted."""
    if flags.json and flags.events:
        raise UsageError("--json and --events exclude one another.", "Choose one.")
    output = Output(raw=flags.raw)
    given = parse_settings(flags.settings, "the command line")
    configured, settings = _settings(flags)
    catalog = load_catalog()
    interactive = not flags.prompt and sys.stdin is not None and sys.stdin.isatty()
    if interactive and not output.stdout_is_terminal:
        raise UsageError("There is nothing to ask.", 'Give a prompt: r1local chat "..."')
    on_screen = interactive and not flags.plain and os.environ.get("TERM") != "dumb"
    prompt = "" if interactive else _prompt(flags.prompt, output)
    try:
        local = choose_model(catalog, settings.model, None if on_screen else output)
    except ModelNotFound as missing:
        if settings.model is None:
            raise
        from r1local.cli.offer import offer_to_pull

        local = offer_to_pull(catalog, settings.model, missing, output, yes=flags.yes, offline=flags.offline)

    sampling = sampling_of(catalog, local, configured, given)
    if on_screen:
        from r1local.cli.screen import run_screen

        run_screen(catalog, lambda: _settings(flags), local, given=given, stop=flags.stop)
        return
    for sentence in warnings_of(catalog, local):
        output.line(sentence)
    check_once(local, output)
    engine = load(local, settings, output)
    mark_used(local.path)
    judge = Judge()
    try:
        for sentence in template_warnings(local, engine):
            output.line(sentence)
        conversation = Conversation(
            engine, sampling, settings.max_tokens, flags.stop, with_system(settings.system),
            vote=settings.vote or 1, vote_stop=flags.vote_stop, same=judge.same,
        )  # fmt: skip
        if interactive:
            from r1local.cli.repl import run_repl

            def vote(samples: int) -> None:
                nonlocal engine
                engine.close()
                engine = load(local, dataclasses.replace(settings, vote=samples), output)
                conversation.engine, conversation.vote = engine, samples

            run_repl(
                conversation, output, settings.think or "fold", name=local.name, stats=flags.stats,
                about=lambda: plan_line(engine.loaded), vote=vote,
            )  # fmt: skip
        else:
            _one_shot(conversation, prompt, output, flags, settings.think, local.name)
            if flags.stats:
                output.line(plan_line(engine.loaded))
    finally:
        output.close()
        engine.close()
        judge.close()


def _settings(flags: ChatFlags) -> tuple[Settings, Settings]:
    """config.toml as it is now, and with the flags over it. Raises SettingsError."""
    configured = load_settings()
    return configured, dataclasses.replace(configured, **flags.settings)


def sampling_of(catalog: Catalog, local: LocalModel, configured: Settings, given: Settings) -> Sampling:
    """How this model is sampled: models.toml < config.toml < the command line. Raises UsageError."""
    known = local.model.sampling if local.model else catalog.sampling
    return merge_sampling(known, configured, dataclasses.asdict(given))


def choose_model(catalog: Catalog, name: str | None, output: Output | None) -> LocalModel:
    """The model of this name, or without a name the best one here: thinkers first, then the largest, and the one
    inside r1local where there is no other.

    `output` is told which one it is, and why. Raises ModelNotFound.
    """
    if name is not None:
        return find(catalog, name)
    here = all_local(catalog)
    if not here:
        raise ModelNotFound("Even the model inside r1local is missing.", "Install r1local again.")
    best = max(here, key=lambda local: (not local.is_inside, bool(local.model and local.model.thinks), local.size))
    if output is None:
        return best
    if best.is_inside:
        output.line(f"This is the small model inside r1local, which only does arithmetic. {real_one(catalog)}")
    elif sum(not local.is_inside for local in here) > 1:
        output.line(f"Using {best.name}; choose another with -m.")
    return best


def real_one(catalog: Catalog) -> str:
    """What to type for a model that can do more: the best one for this machine."""
    machine = hardware.detect()
    # A newcomer waits for a first answer: no measuring here, but what cores of any recent machine get through.
    machine = dataclasses.replace(machine, memory_bandwidth=_BYTES_A_CORE * machine.usable_cores)
    best = recommended(catalog, machine)
    if best is None:
        return "`r1local fit` lists real ones."
    return f"A real one: r1local pull {pull_name(best)} ({best.plan.shape.file_bytes / 1e9:.1f} GB)"


def load(local: LocalModel, settings: Settings, output: Output) -> LlamaEngine:
    """Open the engine with a live line about it."""
    share = 0.0

    def progress(value: float) -> None:
        nonlocal share
        share = value

    output.status(lambda: f"Loading {local.path.name} {share:.0%}")
    try:
        return open_engine(
            local.path,
            options_for(local, settings),
            thinks=local.model.thinks if local.model else None,
            on_notice=output.line,
            on_progress=progress,
        )
    finally:
        output.status(None)


def options_of(settings: Settings) -> EngineOptions:
    return EngineOptions(
        n_ctx=settings.ctx,
        n_threads=settings.threads,
        n_gpu_layers=settings.gpu_layers,
        kv_type=settings.kv_type,
        n_batch=settings.batch,
        margin=None if settings.margin is None else settings.margin << 20,
    )


def options_for(local: LocalModel, settings: Settings) -> EngineOptions:
    """With room for all samples of a vote at once, or for as many as the plan allows."""
    options = options_of(settings)
    samples = settings.vote or 1
    if samples == 1:
        return options
    from r1local.batch.opening import planned

    return planned(local.path, options, replies=samples, max_tokens=settings.max_tokens)


def _one_shot(
    conversation: Conversation,
    prompt: str,
    output: Output,
    flags: ChatFlags,
    think: ThinkMode | None,
    name: str,
) -> None:
    with cancel_on_interrupt(conversation.cancel):
        if flags.events or flags.json:
            done = _as_json(conversation, prompt, output, flags, name)
        else:
            done = ReplyView(output, think or "fold", lambda: conversation.think_tokens).play(conversation.ask(prompt))
    if flags.stats:
        output.line(stats_line(done.stats))
    if done.finish == "cancelled":
        raise KeyboardInterrupt


def _as_json(conversation: Conversation, prompt: str, output: Output, flags: ChatFlags, name: str) -> Done:
    thought: list[str] = []
    answer: list[str] = []
    done: Done | None = None
    for event in conversation.ask(prompt):
        if flags.events:
            output.json({**as_json(event), "model": name} if isinstance(event, Done) else as_json(event))
        match event:
            case ThinkDelta(text):
                thought.append(text)
            case AnswerDelta(text):
                answer.append(text)
            case Done():
                done = event
    assert done is not None
    if flags.json:
        output.json(
            {
                "model": name,
                "think": "".join(thought),
                "answer": "".join(answer),
                "finish": done.finish,
                "note": done.note,
                "thought_closed": done.thought_closed,
                **({"votes": dataclasses.asdict(done.votes)} if done.votes else {}),
                "stats": dataclasses.asdict(done.stats),
            }
        )
    return done


@contextmanager
def cancel_on_interrupt(cancel: Callable[[], None]) -> Iterator[None]:
    """The first Ctrl-C stops the reply and keeps what was said; the second one interrupts for good."""
    pressed = False

    def handle(*_: object) -> None:
        nonlocal pressed
        if pressed:
            raise KeyboardInterrupt
        pressed = True
        cancel()

    before = signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _prompt(given: str, output: Output) -> str:
    """What was given, what is piped in, or the one in front of the other."""
    piped = _piped(output)
    prompt = f"{given}\n\n{piped}" if given and piped.strip() else given or piped
    if not prompt.strip():
        raise UsageError("There is nothing to ask.", 'Give a prompt: r1local chat "..."')
    return prompt


def _piped(output: Output) -> str:
    if sys.stdin is None:
        return ""
    try:
        mode = os.fstat(sys.stdin.fileno()).st_mode
    except (OSError, ValueError):
        return ""
    # A pipe or a file was put there on purpose; a terminal or some other device was not.
    if not (stat.S_ISFIFO(mode) or stat.S_ISREG(mode)):
        return ""
    data = sys.stdin.buffer.read(_MAX_INPUT + 1)
    if len(data) > _MAX_INPUT:
        raise UsageError(f"The input is larger than {_MAX_INPUT >> 20} MiB.", "Shorten it.")
    text = data.decode("utf-8-sig", "replace")
    wrong = text.count("\ufffd")
    if wrong and b"\xef\xbf\xbd" not in data:
        output.line(f"The input is not UTF-8: {wrong} places in it were replaced.")
    return text.replace("\r\n", "\n").rstrip("\n")


def warnings_of(catalog: Catalog, local: LocalModel) -> list[str]:
    """What to know before it is loaded."""
    if local.model is None or not local.model.thinks or not local.quantization:
        return []
    known = catalog.known_quantization(local.quantization)
    if known is None or known.weight_bits >= catalog.warn_below_bits:
        return []
    return [
        f"{known.name} has fewer than {catalog.warn_below_bits} bits a weight: expect more mistakes and "
        f"endless thoughts than with {local.model.recommended}."
    ]


def template_warnings(local: LocalModel, engine: LlamaEngine) -> list[str]:
    """What to know once it is loaded."""
    model = local.model
    if model is None or not model.templates or engine.template.sha256 in model.templates:
        return []
    return [
        f"The chat template in this file is not one that was published for {model.name}: "
        "whoever made the file changed it."
    ]
