"""A program of its own: token ids by the `tokenizers` package or by the C library, in a process that may crash.

Both parse what a stranger wrote, and both are known to abort on some of it. Reads a JSON object from stdin, writes one
to stdout. Imports nothing of this package, so that it runs as a plain file.

    python token_ids.py tokenizer < {"path": "tokenizer.json", "texts": [...], "decode": [...]}
    python token_ids.py library   < {"path": "model.gguf", "texts": [...]}
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
from typing import Any


def by_tokenizers(path: str, texts: list[str], decode: list[str]) -> dict[str, Any]:
    """ids: of each text, without special tokens around it; decoded: each token of `decode`, there and back."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(path)
    tokenizer.no_truncation()
    tokenizer.no_padding()

    def encode(text: str) -> list[int]:
        return list(tokenizer.encode(text, add_special_tokens=False).ids)

    return {
        "ids": [encode(text) for text in texts],
        "decoded": [tokenizer.decode(encode(text), skip_special_tokens=False) for text in decode],
    }


def by_library(path: str, texts: list[str]) -> dict[str, Any]:
    """ids: of each text, special tokens recognized in it."""
    os.environ.setdefault("GGML_NO_BACKTRACE", "1")  # an assertion would start a debugger on this process
    from llama_cpp import llama_cpp as library

    lines: list[str] = []

    def receive(level: int, text: bytes, _: Any) -> None:
        if level in (3, 4):
            lines.append(text.decode(errors="replace").strip())

    callback = library.llama_log_callback(receive)
    library.llama_log_set(callback, ctypes.c_void_p(0))
    parameters = library.llama_model_default_params()
    parameters.vocab_only = True
    model = library.llama_model_load_from_file(path.encode(), parameters)
    if not model:
        return {"error": " ".join(lines[-3:])}
    vocabulary = library.llama_model_get_vocab(model)
    found = []
    for text in texts:
        data = text.encode("utf-8")
        room = (library.llama_token * (len(data) + 16))()
        count = library.llama_tokenize(vocabulary, data, len(data), room, len(room), False, True)
        found.append(list(room[: max(0, count)]))
    library.llama_model_free(model)
    return {"ids": found}


def main() -> None:
    question = json.load(sys.stdin)
    answer = (by_library if sys.argv[1] == "library" else by_tokenizers)(**question)
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main()
