"""Whatever is pasted, a prompt of the greatest length is read in a moment."""

from __future__ import annotations

import subprocess
import sys

import pytest

from studio.prompting.a1111 import plain

BLANKS = " " * 3900
LONG = {
    "blanks": f"a{BLANKS}",
    "blanks before AND": f"a{BLANKS}AND b",
    "lines": "a" + "\n" * 3900 + "b",
    "LoRA": f"<lora:a{BLANKS}b",
    "blanks after a LoRA": f"<lora:a:1>{BLANKS}b",
    "bracket": f"({BLANKS}",
    "digits": "[a:" + "1" * 3900 + "x]",
    "choice": "{2$$" + BLANKS,
    "control signs": "[a]\x01[b] \x015\x02",
}
READ = """
import sys
from studio.prompting.a1111 import plain
from studio.prompting.dynamic import choose
from studio.prompting.syntax import segments
text = sys.stdin.buffer.read().decode()
plain(choose(text, 1, None).text)
segments(text)
"""


@pytest.mark.parametrize("name", LONG)
def test_reading_takes_no_time(name: str) -> None:
    resource = pytest.importorskip("resource")  # Windows can't limit processor time

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_CPU, (3, 3))  # seconds of processor time; imports are a third of one

    done = subprocess.run(
        [sys.executable, "-c", READ], input=LONG[name].encode(), preexec_fn=limited, capture_output=True
    )
    assert done.returncode == 0, done.stderr.decode()[-500:]


@pytest.mark.parametrize(
    ("prompt", "text"),
    [
        ("a : 1.2 ,  AND  , b", "a, b"),
        ("a AND", "a"),
        ("AND b", "b"),
        ("a\nAND\nb", "a, b"),
        ("a, <lora:x> , b", "a, b"),
        ("a <lora:x> b", "a b"),
        ("< lora : x >", ""),
        ("SAND and BAND", "SAND and BAND"),
    ],
)
def test_what_is_taken_out_leaves_one_comma(prompt: str, text: str) -> None:
    assert plain(prompt).text == text
