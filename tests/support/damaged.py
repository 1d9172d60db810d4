"""Files as no program writes them, tried on the verbs `recipe` and `dataset` and on the API, in a process of its own.

`python -m support.damaged COUNT SEED SANDBOX` prints one JSON object: what went wrong, what was written outside the
sandbox's home, the longest processor time of one file in seconds and the most memory in bytes.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import os
import random
import re
import struct
import sys
import time
import zipfile
import zlib
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

SETTINGS = "Steps: 24, Sampler: Euler a, CFG scale: 6.5, Seed: 4242, Size: 256x320, Model: someMix"
TEXT = f"1girl, 青い髪 <lora:ink:0.6>\nNegative prompt: lowres\n{SETTINGS}"
GRAPH = {
    "3": {
        "class_type": "KSampler",
        "inputs": {
            "seed": 4242,
            "steps": 24,
            "cfg": 6.5,
            "sampler_name": "euler",
            "scheduler": "normal",
            "denoise": 1.0,
            "model": ["4", 0],
            "positive": ["6", 0],
            "negative": ["7", 0],
            "latent_image": ["5", 0],
        },
    },
    "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "a.safetensors"}},
    "5": {"class_type": "EmptyLatentImage", "inputs": {"width": 256, "height": 320}},
    "6": {"class_type": "CLIPTextEncode", "inputs": {"text": "1girl", "clip": ["4", 1]}},
    "7": {"class_type": "CLIPTextEncode", "inputs": {"text": ["6", 0], "clip": ["4", 1]}},
    "9": {"class_type": "SaveImage", "inputs": {"images": ["3", 0]}},
}
CIRCLE = GRAPH | {"6": {"class_type": "CLIPTextEncode", "inputs": {"text": ["7", 0], "string_a": ["6", 0]}}}
FIELDS: list[dict[str, str]] = [
    {"parameters": TEXT},
    {"parameters": json.dumps({"sui_image_params": {"prompt": "a", "loras": ["x"], "loraweights": ["1"], "seed": 1}})},
    {"parameters": json.dumps({"prompt": "a", "base_model": "b", "loras": [["x", 1, "0"]], "resolution": "(64, 64)"})},
    {"prompt": json.dumps(GRAPH), "workflow": json.dumps({"nodes": [], "links": []})},
    {
        "workflow": json.dumps(
            {"nodes": [{"id": 1, "type": "KSampler", "widgets_values": [1, 2, 3]}], "links": [[1, 2]]}
        )
    },
    {"prompt": json.dumps(CIRCLE)},
    {"invokeai_metadata": json.dumps({"positive_prompt": "a", "scheduler": "ddim", "seed": 1, "model": {"name": "x"}})},
    {"Dream": '"a [b]" -s 5 -S 6 -W64 -A k_lms'},
    {"sd-metadata": json.dumps({"image": {"prompt": [{"prompt": "a", "weight": 1}], "sampler": "ddim", "seed": 1}})},
    {
        "Comment": json.dumps({"prompt": "a", "uc": "b", "v4_prompt": {"caption": {"base_caption": "c"}}}),
        "Software": "NovelAI",
    },
    {"generation_data": json.dumps({"prompt": "a", "models": [{"type": "LORA", "label": "x"}], "seed": "1"}) + "\0"},
    {"prompt": "a", "seed": "1", "steps": "2", "scale": "7"},
]
HOSTILE: list[Any] = [
    None,
    [],
    {},
    "",
    "\ud800",
    -1,
    10**400,
    1e308,
    float("nan"),
    float("inf"),
    [[[]]],
    {"a": {"a": {}}},
    "x" * 5000,
    ["3", 0],
    {"class_type": 3, "inputs": []},
    True,
    ["\0"],
    "..",
    "/etc/passwd",
    "C:\\x",
    {"lora": "x", "on": 1},
]


def sources(random_: random.Random) -> list[tuple[str, bytes]]:
    """Sound files of every kind: (suffix, content)."""
    picture = Image.effect_noise((48, 40), 80).convert("RGB")
    found: list[tuple[str, bytes]] = []
    for fields in FIELDS:
        chunks, stream = PngInfo(), io.BytesIO()
        for name, text in fields.items():
            random_.choice((chunks.add_itxt, chunks.add_itxt, _ztxt(chunks)))(name, text)
        picture.save(stream, "PNG", pnginfo=chunks)
        found.append((".png", stream.getvalue()))
    for suffix, form in ((".jpg", "JPEG"), (".webp", "WEBP")):
        for text in (TEXT, json.dumps({"sui_image_params": {"prompt": "a", "steps": 3}})):
            exif = Image.Exif()
            exif.get_ifd(0x8769)[0x9286] = b"UNICODE\0" + text.encode(
                random_.choice(("utf-16-be", "utf-16-le", "utf-8"))
            )
            exif[0x0110] = "prompt:" + json.dumps(GRAPH)
            stream = io.BytesIO()
            picture.save(stream, form, exif=exif)
            found.append((suffix, stream.getvalue()))
    hidden = picture.convert("RGBA")
    body = gzip.compress(
        json.dumps({"Comment": json.dumps({"prompt": "a", "uc": "b"}), "Software": "NovelAI"}).encode()
    )
    bits = b"stealth_pngcomp" + struct.pack(">I", len(body) * 8) + body
    for place, bit in enumerate("".join(f"{byte:08b}" for byte in bits)):
        x, y = divmod(place, hidden.height)
        if x < hidden.width:
            hidden.putpixel((x, y), (*hidden.getpixel((x, y))[:3], 254 | int(bit)))
    stream = io.BytesIO()
    hidden.save(stream, "PNG")
    found.append((".png", stream.getvalue()))
    found.append((".txt", TEXT.encode(random_.choice(("utf-8", "utf-16", "cp932")))))
    found.append((".json", json.dumps({"prompt": GRAPH}).encode()))
    stream = io.BytesIO()
    with zipfile.ZipFile(
        stream, "w", random_.choice((zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED, zipfile.ZIP_LZMA))
    ) as bundle:
        for number, (suffix, data) in enumerate(random_.sample(found[:14], 3)):
            bundle.writestr(f"10_name/{number}{suffix}", data)
            bundle.writestr(
                f"10_name/{number}.txt", "1girl, señorita".encode(random_.choice(("utf-8", "cp1252", "utf-16")))
            )
        bundle.writestr("metadata.jsonl", '{"file_name": "10_name/0.png", "text": "a"}\n')
        bundle.writestr("concepts.json", json.dumps([{"path": "10_name", "text": {"prompt_source": "sample"}}]))
    return [*found, *[(".zip", stream.getvalue())] * 8]


def _ztxt(chunks: PngInfo) -> Any:
    return lambda name, text: chunks.add_itxt(name, text, zip=True)


def damaged(data: bytes, suffix: str, random_: random.Random) -> bytes:
    """The file with one to six faults of different kinds."""
    raw = bytearray(data)
    for _ in range(random_.randint(1, 6)):
        place, kind = random_.randrange(max(1, len(raw))), random_.randrange(9)
        if kind == 0:
            del raw[place:]
        elif kind == 1:
            raw[place : place + 1] = bytes([random_.randrange(256)])
        elif kind == 2:
            raw[place:place] = random_.randbytes(random_.randint(1, 40))
        elif kind == 3:
            raw[place : place + random_.randint(1, 60)] = b"\0" * random_.randint(0, 60)
        elif kind == 4:
            raw[place : place + 4] = struct.pack(">I", random_.choice((0, 1, 2**31 - 1, 2**32 - 1, 65535, 60000)))
        elif kind == 5:
            raw += raw[place : place + 500]
        elif kind == 6 and suffix == ".png":
            raw = bytearray(_chunk_changed(bytes(raw), random_))
        elif kind == 7:
            raw = bytearray(_json_changed(bytes(raw), random_))
        elif kind == 8 and suffix == ".png" and len(raw) > 33:  # a size that nobody has, with its checksum right
            raw[16:24] = struct.pack(
                ">II", *(random_.choice((1, 48, 4000, 9999, 20000, 60000, 2**31 - 1)) for _ in "wh")
            )
            raw[29:33] = struct.pack(">I", zlib.crc32(bytes(raw[12:29])))
    return bytes(raw)


def _chunk_changed(data: bytes, random_: random.Random) -> bytes:
    """A PNG with the text of one chunk replaced, checksum and all."""
    kind = random_.choice((b"tEXt", b"iTXt", b"zTXt", b"eXIf"))
    name = random_.choice(
        (b"parameters", b"prompt", b"workflow", b"Comment", b"studio", b"Dream", b"invokeai_metadata")
    )
    text = random_.choice(
        (
            b"[" * 100_000,
            b'{"a":' * 50_000,
            random_.randbytes(200),
            b"Steps: 1, " * 500,
            b"<lora:" * 3000,
            TEXT.encode("cp932"),
            " ".join(["a:b"] * 400).encode() + b", Steps: 5, Seed: 3",
            b" " * 50_000 + b"Steps: 5, Seed: 3",
            b"",
        )
    )
    body = (
        name
        + b"\0"
        + {b"iTXt": b"\0\0\0\0", b"zTXt": b"\0"}.get(kind, b"")
        + (zlib.compress(text) if kind == b"zTXt" else text)
    )
    chunk = struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    place = random_.choice((33, max(33, len(data) - 12)))
    return data[:place] + chunk + data[place:]


def _json_changed(data: bytes, random_: random.Random) -> bytes:
    """Where there is plain JSON in the file: one of its values is something else."""
    begin = data.find(b'{"')
    end = data.find(b"}", begin)
    if begin < 0 or end < 0:
        return data
    colon = data.find(b": ", begin, end)
    stop = data.find(b",", colon, end)
    if colon < 0 or stop < 0:
        return data
    return data[: colon + 2] + json.dumps(random_.choice(HOSTILE)).encode() + data[stop:]


class Watch:
    """While it is entered: what is written outside of `home` is in `outside`. It may be entered again in itself."""

    def __init__(self, home: Path) -> None:
        self.outside: set[str] = set()
        self._allowed = (str(home), "/dev/null", "/proc")
        self._depth = 0
        sys.addaudithook(self._seen)

    def _seen(self, event: str, arguments: tuple[Any, ...]) -> None:
        path = str(arguments[0]) if arguments and isinstance(arguments[0], str | bytes | os.PathLike) else ""
        writes = (event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)) or event in (
            "os.mkdir",
            "os.rename",
        )
        if writes and self._depth and path and not os.path.abspath(path).startswith(self._allowed):
            self.outside.add(f"{event} {path}")

    def __enter__(self) -> Watch:
        self._depth += 1
        return self

    def __exit__(self, *error: object) -> None:
        self._depth -= 1


def most_memory() -> int:
    """The most that this process has had, in bytes; not `ru_maxrss`, which begins with its parent's."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(re.search(r"VmHWM:\s+(\d+)", status)[1]) * 1024  # type: ignore[index]


def main(count: int, seed: int, sandbox: Path) -> dict[str, Any]:
    """Try `count` damaged files; see the module."""
    home, files = sandbox / "home", sandbox / "files"
    files.mkdir(parents=True)
    os.environ |= {"STUDIO_HOME": str(home), "STUDIO_OFFLINE": "1", "STUDIO_DEVICE": "cpu", "STUDIO_DEBUG": "1"}
    from fastapi.testclient import TestClient

    from studio.core.settings import settings
    from studio.interfaces.api.app import create
    from studio.interfaces.cli.main import main as verb

    settings.cache_clear()
    random_ = random.Random(seed)
    wrong: list[str] = []
    slowest, watch = 0.0, Watch(home)
    with TestClient(create(settings()), base_url="http://localhost:8000", raise_server_exceptions=True) as client:
        for number in range(count):
            if number % 25 == 0:
                pool = sources(random_)
            suffix, sound = random_.choice(pool)
            data = damaged(sound, suffix, random_)
            file = files / f"{number}{suffix}"
            file.write_bytes(data)
            folder = files / f"set{number}"
            folder.mkdir()
            (folder / f"a{suffix}").write_bytes(data)
            (folder / "a.txt").write_bytes(data[:300])
            (folder / "metadata.jsonl").write_bytes(data[-300:])
            (folder / "concepts.json").write_bytes(data if suffix == ".json" else b"[]")
            data_set = str(file if suffix == ".zip" else folder)
            sent = {"file": (file.name, data)}
            calls: list[tuple[str, Any]] = [
                ("recipe", partial(verb, ["recipe", str(file), "--json"])),
                ("dataset", partial(verb, ["dataset", data_set, "--json", "--resolution", "64"])),
                ("api", lambda sent=sent: client.post("/images/recipe", files=sent).status_code // 500),
                ("upload", lambda sent=sent: client.post("/images", files=sent).status_code // 500),
            ]
            for name, call in calls[: 4 if number % 4 == 0 else 3]:
                started = time.process_time()
                try:
                    with watch, contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                        code = call()
                    if code not in (0, 2):
                        wrong.append(f"{name} {file.name}: {code}")
                except BaseException as error:
                    wrong.append(f"{name} {file.name}: {type(error).__name__}: {str(error)[:200]}")
                slowest = max(slowest, time.process_time() - started)
            if not any(file.name in said for said in wrong):
                file.unlink()
    return {"wrong": wrong, "outside": sorted(watch.outside), "slowest": slowest, "memory": most_memory()}


if __name__ == "__main__":
    print(json.dumps(main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))))
