"""Examines the model inside: `python -m training.examine`.

Converts the checkpoint to each type, asks problems that training never showed, at temperature 0 and by votes at R1's
own sampling, and what it says to everything else. Writes report.json and curve.png into the checkpoint's folder.
Needs matplotlib for the curve.
"""

from __future__ import annotations

import argparse
import json
import re
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from quantize.conversion import Options
from quantize.convert import convert_checkpoint
from quantize.kernels import Kernels
from quantize.recipes import Wish
from r1local import hardware
from r1local.catalog import load_catalog
from r1local.chat_types import Sampling, Turn
from r1local.engine import EngineOptions, LlamaEngine, Piece, Request, merge, open_engine
from r1local.errors import R1Error
from r1local.reader import ReplyReader
from r1local.settings import Settings, merge_sampling
from training.phrases import WORDS, Language
from training.problems import Kind, Lesson, lesson

HOME = Path(__file__).parent / "r1local-inside"
OFF_TOPIC = Path(__file__).with_name("off_topic.json")
TYPES = ("F16", "Q8_0", "Q4_K_M")
SEED = 7
PROBLEMS = 500
VOTES = 16
_AT_ONCE = 16
_LONGEST = 900  # tokens of a reply; the longest thought of training has some 550
GREEDY = Sampling(temperature=0.0, top_p=1.0, top_k=0, min_p=0.0)


@dataclass(frozen=True, slots=True)
class Exam:
    """Some kind of problem."""

    name: str
    kind: Kind
    digits: tuple[range, ...]
    """How many digits each number may have."""


_UP_TO_3, _4_TO_6 = range(1, 4), range(4, 7)
MAIN = (
    Exam("sums", "sum", (_UP_TO_3, _UP_TO_3)),
    Exam("differences", "difference", (_UP_TO_3, _UP_TO_3)),
    Exam("products", "product", (range(2, 3), range(2, 3))),
    Exam("stories", "word", (range(1, 5), range(1, 5))),
)
FURTHER = (
    Exam("longer_sums", "sum", (_4_TO_6, range(1, 7))),
    Exam("longer_differences", "difference", (_4_TO_6, range(1, 7))),
    Exam("longer_products", "product", (range(3, 4), range(2, 3))),
    Exam("three_numbers", "chain", (_UP_TO_3, _UP_TO_3, _UP_TO_3)),
)


@dataclass(frozen=True, slots=True)
class Reply:
    """What the model made of a question."""

    thought: str
    answer: str
    ended: bool
    """By itself, its thought closed."""

    @property
    def boxes(self) -> list[str]:
        return re.findall(r"\\boxed\{([^{}]*)\}", self.answer)

    @property
    def result(self) -> int | None:
        """What stands in the last box, if it is a whole number."""
        last = self.boxes[-1].strip() if self.boxes else ""
        return int(last) if re.fullmatch(r"-?\d+", last) else None

    @property
    def is_well_formed(self) -> bool:
        return self.ended and bool(self.thought.strip()) and len(self.boxes) == 1

    @property
    def agrees(self) -> bool:
        """Whether the last number in the last line of the thought is the answer."""
        numbers = re.findall(r"(?<![\d])-?\d+", self.thought.strip().rpartition("\n")[2])
        return bool(numbers) and self.result == int(numbers[-1])


def problems(exam: Exam, count: int, seed: int) -> list[Lesson]:
    """So many different problems that training never showed, or as many as turn up: of small sums there are only some
    two hundred, as none was ever to be checked by a difference that was taught.
    """
    random, found = Random(seed), dict[str, Lesson]()
    for _ in range(4 * count):
        if len(found) == count:
            break
        drawn = lesson(random, exam.kind, held_out=True)
        numbers = drawn.expression.split(" ")[::2]
        if all(len(number) in allowed for number, allowed in zip(numbers, exam.digits, strict=True)):
            found.setdefault(drawn.expression, drawn)
    return list(found.values())


def ask(engine: LlamaEngine, questions: Sequence[str], sampling: Callable[[int], Sampling]) -> list[Reply]:
    """All questions at once, each in a chat of its own."""
    streams, readers = [], {}
    replies: dict[int, Reply] = {}
    for number, question in enumerate(questions):
        prompt = engine.template.render([Turn("user", question)])
        stream = engine.submit(Request(engine.encode(prompt.segments), sampling(number), max_tokens=_LONGEST))
        readers[stream] = number, ReplyReader(thought_open=prompt.thought_open)
        streams.append(stream)
    for stream, item in merge(streams):
        number, reader = readers[stream]
        if isinstance(item, R1Error):
            raise item
        if isinstance(item, Piece):
            reader.feed(item)
        else:
            reader.finish(item)
            replies[number] = Reply(reader.thought, reader.answer, item.finish == "stop" and not reader.thinking)
    return [replies[number] for number in range(len(questions))]


def percent(hits: Sequence[bool]) -> float:
    return round(100 * sum(hits) / len(hits), 1)


def examine_greedy(engine: LlamaEngine, exam: Exam, count: int) -> dict[str, Any]:
    asked = problems(exam, count, SEED)
    replies = ask(engine, [it.question for it in asked], lambda _: GREEDY)
    return {
        "problems": len(asked),
        "right": percent([reply.result == it.result for reply, it in zip(replies, asked, strict=True)]),
        "well_formed": percent([reply.is_well_formed for reply in replies]),
        "agrees": percent([reply.agrees for reply in replies]),
    }


def examine_votes(engine: LlamaEngine, exam: Exam, count: int, votes: int) -> dict[str, Any]:
    """The mean over all samples, and what the most frequent result of each problem is worth."""
    asked = problems(exam, count, SEED)
    own = load_catalog().sampling
    questions = [it.question for it in asked for _ in range(votes)]
    replies = ask(engine, questions, lambda number: merge_sampling(own, Settings(), {"seed": number}))
    single, majority = [], []
    for index, it in enumerate(asked):
        results = [reply.result for reply in replies[index * votes : (index + 1) * votes]]
        single += [result == it.result for result in results]
        counts = Counter(result for result in results if result is not None).most_common(1)
        majority.append(bool(counts) and counts[0][0] == it.result)
    return {
        "problems": len(asked),
        "pass_1": percent(single),
        f"majority_{votes}": percent(majority),
        "well_formed": percent([reply.is_well_formed for reply in replies]),
        "agrees": percent([reply.agrees for reply in replies]),
    }


def examine_other(engine: LlamaEngine) -> dict[str, Any]:
    """What it says to prompts that are no arithmetic."""
    prompts: dict[Language, list[str]] = json.loads(OFF_TOPIC.read_text(encoding="utf-8"))
    asked = [(language, prompt) for language, texts in prompts.items() for prompt in texts]
    replies = ask(engine, [prompt for _, prompt in asked], lambda _: GREEDY)
    said = [
        {
            "prompt": prompt,
            "thought": reply.thought,
            "answer": reply.answer,
            "right": reply.answer == WORDS[language].what_i_am,
        }
        for (language, prompt), reply in zip(asked, replies, strict=True)
    ]
    return {"prompts": len(said), "right": percent([bool(it["right"]) for it in said]), "said": said}


def examine(folder: Path, count: int, votes: int) -> dict[str, Any]:
    report: dict[str, Any] = {"greedy": {}}
    cores = hardware.detect().usable_cores
    packaged = load_catalog().resolve("inside")[0].recommended
    with tempfile.TemporaryDirectory() as place:
        for file_type in TYPES:
            path = Path(place) / f"{folder.name}-{file_type}.gguf"
            convert_checkpoint(folder, path, Wish(file_type), Options(Kernels("auto"), cores, threading.Event()))
            with open_engine(path, EngineOptions(n_ctx=_AT_ONCE * 1024, n_seq_max=_AT_ONCE), thinks=True) as engine:
                started = time.monotonic()
                exams = (*MAIN, *FURTHER) if file_type == packaged else MAIN
                greedy = {exam.name: examine_greedy(engine, exam, count) for exam in exams}
                if file_type == packaged:
                    greedy["other"] = examine_other(engine)
                report["greedy"][file_type] = greedy
                print(file_type, f"{time.monotonic() - started:.0f} s", flush=True)
                for name, result in greedy.items():
                    print(f"  {name:<20}", {k: v for k, v in result.items() if k != "said"}, flush=True)
                if file_type == packaged:
                    sampled = {exam.name: examine_votes(engine, exam, count // 8, votes) for exam in MAIN}
                    report["sampled"] = sampled
                    for name, result in sampled.items():
                        print(f"  {name:<20}", result, flush=True)
    return report


def training_of(entries: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What the log says of the training that made the checkpoint."""
    last = entries[-1]
    return {"steps": last["step"], "tokens_learned": last["tokens"], "seconds": last["seconds"], "loss": last["loss"]}


def draw_curve(entries: Sequence[dict[str, Any]], target: Path) -> None:
    """The loss of a token over the steps, and the time they took."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 4.5), dpi=110)
    axes.plot([it["step"] for it in entries], [it["loss"] for it in entries], linewidth=1.2)
    axes.set(yscale="log", xlabel="step", ylabel="loss of a token, nats")
    axes.grid(alpha=0.3, which="both")
    last = entries[-1]
    axes.set_title(
        f"{last['step']:,} steps, {last['tokens'] / 1e6:.1f}M tokens learned, {last['seconds'] / 60:.0f} min"
    )
    figure.tight_layout()
    figure.savefig(target, metadata={"Software": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--folder", type=Path, default=HOME, help="the checkpoint")
    parser.add_argument("--problems", type=int, default=PROBLEMS, help="of each kind")
    parser.add_argument("--votes", type=int, default=VOTES)
    given = parser.parse_args()
    machine = hardware.detect()
    entries = [json.loads(line) for line in (given.folder / "log.jsonl").read_text().splitlines()]
    report = {
        "training": training_of(entries),
        "machine": f"{machine.usable_cores} cores, {machine.processor}",
        **examine(given.folder, given.problems, given.votes),
    }
    (given.folder / "report.json").write_text(json.dumps(report, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    draw_curve(entries, given.folder / "curve.png")


if __name__ == "__main__":
    main()
