"""What does `bench --tune` win, and how does r1local compare with llama-cpp-python's own class? Goal: never below 0.98.

A prompt of 512 tokens is read and some tokens are written: with tuned settings, with r1local's defaults, and by the
high-level `Llama` with all of its defaults, but for a context that holds the prompt. Each time in a process of its own,
on the same file. The tuning is done first, in a home of its own: what this machine has learnt is neither used nor
changed.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.measure import arguments, report

PROMPT_TOKENS, THOUGHT_TOKENS = 512, 1_000
_WARM_UP = 32
_ROOT = Path(__file__).resolve().parents[1]


def ours(path: str, tokens: int) -> None:
    """In a child: as a chat loads the model, what this home has learnt included."""
    from r1local.engine import EngineOptions
    from r1local.engine.loading import load
    from r1local.engine.measure import PROBE, Rig, Sizes
    from r1local.gguf_header import read_header

    loaded = load(read_header(Path(path)), EngineOptions(n_ctx=2 * PROMPT_TOKENS))
    with ThreadPoolExecutor(1) as worker:
        rig = Rig(loaded.context, loaded.model.n_vocab, worker)
        for sizes in (PROBE, Sizes(PROMPT_TOKENS, PROMPT_TOKENS, tokens)):
            found = rig.measure(sizes, n_threads=loaded.plan.n_threads, n_batch=loaded.plan.settings.n_ubatch)
    print(json.dumps({"prefill": found.prefill, "decode": found.decode}))


def theirs(path: str, tokens: int, without_amx: bool) -> None:
    """In a child: the same work through `Llama`."""
    import llama_cpp
    from llama_cpp import Llama

    from r1local.engine.amx import keep_amx_off

    if without_amx:
        # Not by r1local's own loading of the library, which also limits how long threads spin.
        keep_amx_off(Path(llama_cpp.__file__).parent / "lib")
    llama = Llama(path, n_ctx=PROMPT_TOKENS + tokens, verbose=False)
    prompt = [(7 + 31 * place) % min(llama.n_vocab(), 1000) for place in range(PROMPT_TOKENS)]
    llama.eval(prompt[:_WARM_UP])
    llama.eval(prompt[:1])
    llama.reset()
    began = time.perf_counter()
    llama.eval(prompt)
    read = time.perf_counter()
    for token in prompt[:tokens]:
        llama.eval([token])
    written = time.perf_counter()
    print(json.dumps({"prefill": PROMPT_TOKENS / (read - began), "decode": tokens / (written - read)}))


class Crashed(Exception):
    """Of a child, with how it ended."""


def child(call: str, home: str) -> dict[str, float]:
    """Both speeds, from a function above in a process of its own."""
    ended = subprocess.run(
        [sys.executable, "-c", f"from benchmarks.tuned import ours, theirs; {call}"],
        cwd=_ROOT,
        env={**os.environ, "R1LOCAL_HOME": home},
        capture_output=True,
        text=True,
    )
    if ended.returncode < 0:
        raise Crashed(signal.Signals(-ended.returncode).name)
    if ended.returncode:
        raise SystemExit(ended.stderr[-2000:])
    return dict(json.loads(ended.stdout.splitlines()[-1]))


def tune(model: Path, seconds: int, home: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "r1local", "bench", str(model), "--tune", "--json", "--seconds", str(seconds)],
        env={**os.environ, "R1LOCAL_HOME": home},
        stdout=subprocess.PIPE,
        check=True,
    )
    found = json.loads(ended.stdout)
    if not found["decided"]:
        raise SystemExit("There was not enough time to tune: raise --seconds.")
    print(f"Tuned in {found['seconds']:.0f} s: {found['winner']}, {found['remembered']}")


def main() -> None:
    given = arguments(__doc__, tokens=32, seconds=100)
    path = repr(str(given.model))
    with tempfile.TemporaryDirectory() as folder:
        tuned, plain = f"{folder}/tuned", f"{folder}/plain"
        tune(given.model, given.seconds, tuned)
        variants = {
            "tuned": (f"ours({path}, {given.tokens})", tuned),
            "default": (f"ours({path}, {given.tokens})", plain),
            "Llama": (f"theirs({path}, {given.tokens}, False)", plain),
        }
        try:
            child(*variants["Llama"])
        except Crashed as crash:
            print(f"`Llama` with its defaults crashes here ({crash}): measured with AMX kept off.")
            variants["Llama"] = (f"theirs({path}, {given.tokens}, True)", plain)
        rounds: dict[str, list[dict[str, float]]] = {name: [] for name in variants}
        for number in range(given.rounds + 1):
            for name, variant in variants.items():
                found = child(*variant)
                if number:  # the first round fills caches, and tries the file once in each home
                    rounds[name].append(found)
    print(f"{given.model.name}: {PROMPT_TOKENS} tokens read, {given.tokens} written")
    for what in ("prefill", "decode"):
        print(f"{what}, tok/s")
        _report({name: [each[what] for each in listed] for name, listed in rounds.items()})
    print(f"typical exchanges an hour: {PROMPT_TOKENS} tokens read, {THOUGHT_TOKENS} written")
    _report(
        {
            name: [3600 / (PROMPT_TOKENS / each["prefill"] + THOUGHT_TOKENS / each["decode"]) for each in listed]
            for name, listed in rounds.items()
        }
    )


def _report(results: dict[str, list[float]]) -> None:
    for of, against in (("tuned", "default"), ("default", "Llama"), ("tuned", "Llama")):
        report({name: results[name] for name in (of, against)}, "", of=of, against=against)


if __name__ == "__main__":
    main()
