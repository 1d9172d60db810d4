"""Damaged LoRAs and damaged notes beside them, tried on `generate --lora` and on the API, in a process of its own.

`python -m support.damaged_loras COUNT SEED SANDBOX` prints what `support.damaged` does; the memory is what these files
took above the drawing with a sound one.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import shutil
import struct
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save
from support.damaged import HOSTILE, Watch, damaged, most_memory

LAYERS = {  # of the model of `tiny_sd`: name and shape of its weight
    "down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q": (16, 16),
    "down_blocks_0_resnets_0_conv1": (16, 16, 3, 3),
    "mid_block_attentions_0_proj_in": (32, 32, 1, 1),
}
NOTES = (
    {"activation text": "inkline", "preferred weight": 0.7, "sd version": "SD1"},
    {"trainedWords": ["a", "b"], "baseModel": "SD 1.5"},
    {"title": "x", "trigger_words": ["y"], "weight": 0.5, "fast": {"steps": 4, "guidance": 1.0, "sampler": "lcm"}},
)


def adapter(kind: str, random_: np.random.Generator) -> dict[str, np.ndarray]:
    """A sound adapter of this kind on three layers."""
    tensors: dict[str, np.ndarray] = {}

    def put(name: str, *shape: int) -> None:
        tensors[name] = random_.normal(0, 0.1, shape).astype(random_.choice(("float16", "float32")))

    for layer, (out, into, *kernel) in LAYERS.items():
        name, ones = f"lora_unet_{layer}", [1] * len(kernel)
        if kind == "loha":
            for half in ("1", "2"):
                put(f"{name}.hada_w{half}_a", out, 2)
                put(f"{name}.hada_w{half}_b", 2, into * int(np.prod(kernel)))
        elif kind == "lokr":
            put(f"{name}.lokr_w1", 4, 2)
            put(f"{name}.lokr_w2_a", out // 4, 2)
            put(f"{name}.lokr_w2_b", 2, into // 2 * int(np.prod(kernel)))
        elif kind == "diff":
            put(f"{name}.diff", out, into, *kernel)
        else:
            put(f"{name}.lora_up.weight", out, 2, *ones)
            put(f"{name}.lora_down.weight", 2, into, *kernel)
            if kind == "dora":
                put(f"{name}.dora_scale", out, 1, *ones)
        put(f"{name}.alpha")
    return tensors


def spoilt(data: bytes, random_: random.Random) -> bytes:
    """The file with its header changed in one place and whole otherwise, or with faults anywhere."""
    if random_.random() < 0.4:
        return damaged(data, ".safetensors", random_)
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    key = random_.choice([name for name in header if name != "__metadata__"])
    entry, how = header[key], random_.randrange(7)
    if how == 0:
        entry[random_.choice(("dtype", "shape", "data_offsets"))] = random_.choice(HOSTILE)
    elif how == 1:
        entry["shape"] = random_.choice(([2**31, 2**31], [10**12], [-1, 4], [0], [1] * 90, entry["shape"][::-1]))
    elif how == 2:
        entry["dtype"] = random_.choice(("I64", "U8", "BOOL", "F64", "F8_E4M3", "BF16", "C64", "X"))
    elif how == 3:
        header[random_.choice((key[::-1], "lora_te_x.lora_up.weight", f"{key}.alpha", "a" * 3000))] = header.pop(key)
    elif how == 4:
        header["__metadata__"] = random_.choice((*HOSTILE, {"ss_tag_frequency": "{" * 9999, "modelspec.title": "\0"}))
    elif how == 5:
        del header[key]
    body = bytearray(data[8 + length :])
    if how == 6 and body:
        place = random_.randrange(0, len(body), 2)
        body[place : place + 2] = random_.choice((b"\0\x7e", b"\0\x7c", b"\xff\xff", b"\xff\x7f"))
    try:
        packed = json.dumps(header).encode("utf-8", "surrogatepass")
    except ValueError:  # a number of a million digits
        return data[: len(data) // 2]
    return struct.pack("<Q", len(packed)) + packed + bytes(body)


def main(count: int, seed: int, sandbox: Path) -> dict[str, Any]:
    """Try `count` damaged LoRAs; see the module."""
    home, files = sandbox / "home", sandbox / "files"
    files.mkdir(parents=True)
    names = {"STUDIO_HOME": str(home), "STUDIO_OFFLINE": "1", "STUDIO_DEVICE": "cpu", "STUDIO_DEBUG": "1"}
    os.environ |= names | {"STUDIO_MODEL": "tiny"}
    from fastapi.testclient import TestClient
    from support.checkpoints import tiny_sd

    from studio.core.settings import settings
    from studio.interfaces.api.app import create
    from studio.interfaces.cli.main import main as verb

    settings.cache_clear()
    tiny_sd(home / "models" / "tiny")
    loras = home / "models" / "loras"
    loras.mkdir()
    random_, numbers = random.Random(seed), np.random.default_rng(seed)
    wrong: list[str] = []
    codes: dict[int, int] = {}
    slowest = 0.0
    asked = ["generate", "--prompt", "1girl", "--steps", "1", "--size", "64", "--seed", "1", "--json", "--lora"]
    before = 0
    watch = Watch(home)
    with TestClient(create(settings()), base_url="http://localhost:8000") as client:

        def by_api(file: Path) -> int:
            request = {"prompt": "1girl", "steps": 1, "width": 64, "height": 64, "loras": [{"path": file.name}]}
            found = client.get("/models").status_code // 500
            started = client.post("/jobs", json={"kind": "generate", "model": "tiny"} | request)
            if started.status_code >= 500:
                return 1
            job = started.json() if started.status_code < 400 else {"state": "failed", "error": "refused"}
            while job["state"] in ("queued", "running", "waiting"):
                time.sleep(0.02)
                job = client.get(f"/jobs/{job['id']}").json()
            inside = "Something went wrong" in str(job.get("error"))
            return found or int(inside)

        for number in range(-1, count):
            sound = save(adapter(random_.choice(("lora", "loha", "lokr", "dora", "diff")), numbers))
            file = loras / f"{number % 3}.safetensors"
            file.write_bytes(sound if number < 0 else spoilt(sound, random_))
            note = json.dumps(random_.choice(NOTES)).encode()
            beside = file.with_suffix(random_.choice((".json", ".civitai.info", ".metadata.json")))
            if number >= 0:
                beside.write_bytes(damaged(note, ".json", random_))
            calls: list[tuple[str, Any]] = [("generate", lambda file=file: verb([*asked, str(file)]))]
            if number % 4 == 0:
                calls.append(("api", lambda file=file: by_api(file)))
            for name, call in calls:
                started = time.process_time()
                said = io.StringIO()
                try:
                    with watch, contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said):
                        code = call()
                    codes[code] = codes.get(code, 0) + 1
                    overflow = name == "generate" and code == 1 and "numbers overflowed" in said.getvalue()
                    if code not in (0, 2) and not overflow:  # values so large are said when they are drawn
                        wrong.append(f"{name} {number}: {code}")
                except BaseException as error:
                    wrong.append(f"{name} {number}: {type(error).__name__}: {str(error)[:200]}")
                slowest = max(slowest, time.process_time() - started) if number >= 0 else 0.0
                if wrong and f" {number}:" in wrong[-1]:
                    shutil.copy(file, files / f"{number}.safetensors")
            beside.unlink(missing_ok=True)
            if number < 0:
                if wrong:
                    raise AssertionError(f"the sound file: {wrong}")
                before = most_memory()
    outside = sorted(watch.outside)
    return {
        "wrong": wrong, "outside": outside, "slowest": slowest, "memory": most_memory() - before, "codes": codes,
    }  # fmt: skip


if __name__ == "__main__":
    print(json.dumps(main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))))
