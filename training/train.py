"""Trains the model inside from nothing: `python -m training.train`.

Needs torch (`pip install '.[training]'`, a CPU build of it will do) and all cores: any other busy process makes it
several times slower. Writes checkpoint and log as it goes; the same command goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterator
from itertools import repeat
from pathlib import Path
from random import Random

import torch
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional

from training import phrases
from training.model import Qwen2, Shape
from training.problems import Kind, Lesson, lesson
from training.tokenizer import ASSISTANT, BOS, EOS, SIZE, USER, train_tokenizer

SEED = 20250120
HOME = Path(__file__).parent / "r1local-inside"
TEMPLATE = Path(__file__).parent / "chat_template.jinja"
# Products are longer than the others: by tokens they are a third.
MIX: dict[Kind, float] = {"sum": 0.2, "difference": 0.24, "product": 0.24, "chain": 0.06, "word": 0.14, "other": 0.12}
_TURNS_BEFORE = ((0, 1, 2, 3, 5, 8, 12), (0.86, 0.05, 0.03, 0.02, 0.02, 0.01, 0.01))  # how many, how often
_WARM_UP = 200  # steps
_POOL = 64  # batches that are cut out of one sorted pile, so that little is padding
_ROUND = 32  # lengths are rounded up to this, so that the compiler meets few shapes


def _id_of(tokenizer: Tokenizer, text: str) -> int:
    found = tokenizer.token_to_id(text)
    assert found is not None, text
    return int(found)


class Encoder:
    """Lessons to token ids."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        names = (BOS, EOS, USER, ASSISTANT, "<think>", "</think>")
        self._bos, self.eos, self._user, self._assistant, self._think, self._thought = map(
            _id_of, repeat(tokenizer), names
        )

    def _ids(self, text: str) -> list[int]:
        # Apart from the special tokens, as the engine does it with what a user typed.
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def __call__(self, taught: Lesson, random: Random, earlier: list[Lesson]) -> tuple[list[int], int]:
        """Token ids of a chat, and how many of them are given: the rest is what the model has to say.

        earlier: turns before this one, their thoughts gone, as the chat template does it. Now and then there is a
        system prompt, and now and then the thought was cut off or left out by whoever runs the model: then only the
        answer is to be learned.
        """
        given = [self._bos]
        if random.random() < 0.04:
            given += self._ids(phrases.system_prompt(random))
        for turn in earlier:
            given += [self._user, *self._ids(turn.question), self._assistant, *self._ids(turn.answer), self.eos]
        given += [self._user, *self._ids(taught.question), self._assistant, self._think, *self._ids("\n")]
        thought = taught.thought + "\n"
        if taught.result is not None and random.random() < 0.03:
            lines = taught.thought.split("\n")
            left = lines[: random.randrange(len(lines))]
            given += self._ids("\n".join([*left, phrases.cut_off(random, taught.language)]) + "\n")
            given.append(self._thought)
            said = [*self._ids("\n\n" + taught.answer), self.eos]
        else:
            said = [*self._ids(thought), self._thought, *self._ids("\n\n" + taught.answer), self.eos]
        return given + said, len(given)


def batches(encode: Encoder, tokens_a_batch: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Inputs (batch, length) and targets of the same shape, -100 where nothing is learned. Without end."""
    random = Random(seed)
    kinds, weights = list(MIX), list(MIX.values())
    while True:
        pile: list[tuple[list[int], int]] = []
        while sum(len(ids) for ids, _ in pile) < _POOL * tokens_a_batch:
            kind, *before = random.choices(kinds, weights, k=1 + random.choices(*_TURNS_BEFORE)[0])
            ids, given = encode(lesson(random, kind), random, [lesson(random, it) for it in before])
            if len(ids) <= Shape.context:
                pile.append((ids, given))
        pile.sort(key=lambda item: len(item[0]))
        cut: list[list[tuple[list[int], int]]] = [[]]
        for item in pile:
            if cut[-1] and (len(cut[-1]) + 1) * len(item[0]) > tokens_a_batch:
                cut.append([])
            cut[-1].append(item)
        random.shuffle(cut)
        for batch in cut:
            length = max(len(ids) for ids, _ in batch)
            length += -(length - 1) % _ROUND
            inputs = torch.full((len(batch), length - 1), encode.eos)
            targets = torch.full((len(batch), length - 1), -100)
            for row, (ids, given) in enumerate(batch):
                inputs[row, : len(ids) - 1] = torch.tensor(ids[:-1])
                targets[row, given - 1 : len(ids) - 1] = torch.tensor(ids[given:])
            yield inputs, targets


def rate(step: int, steps: int) -> float:
    """Share of the highest learning rate: a linear warm-up, then a cosine down to nothing."""
    if step < _WARM_UP:
        return (step + 1) / _WARM_UP
    return 0.5 * (1 + math.cos(math.pi * (step - _WARM_UP) / max(1, steps - _WARM_UP)))


class Training:
    """A model on its way, its optimizers and what has been spent on it."""

    def __init__(self, folder: Path, highest: float) -> None:
        torch.manual_seed(SEED)
        self.folder = folder
        if self._state.exists():
            self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        else:
            self.tokenizer = train_tokenizer(folder, TEMPLATE.read_text(encoding="utf-8"), SEED)
        self.model = Qwen2(Shape(SIZE))
        inner = [p for name, p in self.model.named_parameters() if p.dim() > 1 and "embed" not in name]
        outer = [p for name, p in self.model.named_parameters() if p.dim() < 2 or "embed" in name]
        # Muon (https://kellerjordan.github.io/posts/muon/) for the matrices: after as many steps the loss was a third
        # of AdamW's, for a sixth more time. Its rate is scaled so that AdamW's fits it.
        self.optimizers: list[torch.optim.Optimizer] = [
            torch.optim.Muon(inner, lr=highest, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(outer, lr=highest, betas=(0.9, 0.98), weight_decay=0.0, fused=True),
        ]
        self._highest = highest
        self.step, self.learned, self.seconds = 0, 0, 0.0
        if self._state.exists():
            state = torch.load(self._state, weights_only=True)
            self.model.load_state_dict(state["model"])
            for optimizer, kept in zip(self.optimizers, state["optimizers"], strict=True):
                optimizer.load_state_dict(kept)
            self.step, self.learned, self.seconds = state["step"], state["learned"], state["seconds"]
        # What was done after the last save is done again.
        if self._log.exists():
            entries = self._log.read_text().splitlines(keepends=True)
            self._log.write_text("".join(it for it in entries if json.loads(it)["step"] <= self.step))
        # One compilation for all shapes: half as long a step.
        self._forward = torch.compile(self.model, dynamic=True)

    @property
    def _state(self) -> Path:
        return self.folder / "training.pt"

    @property
    def _log(self) -> Path:
        return self.folder / "log.jsonl"

    def learn(self, inputs: Tensor, targets: Tensor, steps: int) -> float:
        """One step on one batch; returns the mean loss of a token, in nats."""
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self._highest * rate(self.step, steps)
        learned = targets != -100
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = self.model.logits(self._forward(inputs)[learned])
        loss = functional.cross_entropy(logits.float(), targets[learned])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self.learned += int(learned.sum())
        return float(loss.item())

    def save(self) -> None:
        """The checkpoint, and beside it what is needed to go on."""
        state = {
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "step": self.step,
            "learned": self.learned,
            "seconds": self.seconds,
        }
        torch.save(state, self._state)
        self.model.save(self.folder, eos=_id_of(self.tokenizer, EOS), bos=_id_of(self.tokenizer, BOS))

    def log(self, loss: float) -> None:
        entry = {"step": self.step, "loss": round(loss, 5), "tokens": self.learned, "seconds": round(self.seconds)}
        with self._log.open("a") as log:
            log.write(json.dumps(entry) + "\n")
        print(entry, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--steps", type=int, default=14_500)
    parser.add_argument("--tokens", type=int, default=2600, help="of a batch, its padding included")
    parser.add_argument("--rate", type=float, default=4e-3, help="the highest learning rate")
    parser.add_argument("--folder", type=Path, default=HOME)
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    training = Training(given.folder, given.rate)
    parameters = sum(parameter.numel() for parameter in training.model.parameters())
    print(f"{parameters:,} parameters, {SIZE} tokens in the vocabulary, from step {training.step}", flush=True)
    # Gone on with after an interruption, the batches are others than they would have been.
    source = batches(Encoder(training.tokenizer), given.tokens, SEED + training.step)
    losses: list[float] = []
    before, started = training.seconds, time.monotonic()
    while training.step < given.steps:
        losses.append(training.learn(*next(source), given.steps))
        training.seconds = before + time.monotonic() - started
        if training.step % 50 == 0:
            training.log(sum(losses) / len(losses))
            losses.clear()
        if training.step % 500 == 0:
            training.save()
    training.save()


if __name__ == "__main__":
    main()
