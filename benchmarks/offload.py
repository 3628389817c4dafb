"""Layers on a GPU, for real: the same greedy chat with none, half and all of them there must say the same.

Wants a build that finds a GPU. One without any real GPU, on Debian, is Mesa's software device:

    apt install glslc libvulkan-dev mesa-vulkan-drivers spirv-headers   # headers from 1.3.275 on
    python3 -m venv vulkan
    CMAKE_ARGS="-DGGML_VULKAN=ON -DLLAVA_BUILD=OFF" vulkan/bin/pip install --no-cache-dir -e .
    GGML_VK_VISIBLE_DEVICES=0 vulkan/bin/python -m benchmarks.offload
"""

from __future__ import annotations

import argparse
import subprocess
import sys

from r1local.catalog import load_catalog
from r1local.engine.devices import devices
from r1local.gguf_header import read_header
from r1local.store import find

PROMPTS = ("What is 347 + 285?", "What is 47 * 86?", "900 - 333 = ?", "Li has 48 apples and gives 19 away. How many?")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="inside")
    given = parser.parse_args()
    gpus = [device for device in devices() if device.is_gpu]
    if not gpus:
        raise SystemExit("The installed build finds no GPU.")
    for gpu in gpus:
        print(f"{gpu.name}: {gpu.description}, {gpu.memory_free >> 20:,} MiB free")
    layers = read_header(find(load_catalog(), given.model).path).integer("block_count")
    differ = False
    for prompt in PROMPTS:
        said = {}
        for count in (0, (layers + 1) // 2, layers + 1):
            command = [
                sys.executable, "-m", "r1local", "chat", "-m", given.model, "--temperature", "0", "-n", "300",
                "--gpu-layers", str(count), "--json", prompt,
            ]  # fmt: skip
            ended = subprocess.run(command, capture_output=True, text=True)
            if ended.returncode:
                raise SystemExit(ended.stderr)
            said[count] = ended.stdout.partition('"stats"')[0]
        same = len(set(said.values())) == 1
        differ |= not same
        print(f"{prompt}  {', '.join(map(str, said))} of {layers + 1} layers on the GPU: {'equal' if same else said}")
    if differ:
        raise SystemExit("The texts differ.")


if __name__ == "__main__":
    main()
