"""Opening what somebody else named."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from studio.core.files import lexically_below, open_regular, read_regular


def test_a_regular_file_is_read_and_nothing_else_is_waited_for(tmp_path: Path) -> None:
    file, pipe, link = tmp_path / "a", tmp_path / "pipe", tmp_path / "link"
    file.write_bytes(b"here")
    link.symlink_to(file)
    os.mkfifo(pipe)
    assert read_regular(file) == read_regular(link) == b"here"
    for path in (pipe, Path("/dev/ptmx"), Path("/dev/zero"), tmp_path):
        with pytest.raises(OSError, match=r"regular|directory"):
            open_regular(path)
    with pytest.raises(OSError, match="not a regular file"):
        open_regular(link, follow=False)
    with pytest.raises(OSError, match="too large"):
        read_regular(file, limit=3)


def test_a_place_is_judged_by_its_name(tmp_path: Path) -> None:
    assert lexically_below(tmp_path / "a" / "b", tmp_path / "a")
    assert lexically_below(tmp_path / "x" / ".." / "a" / "b", tmp_path / "a")
    assert not lexically_below(tmp_path / "a" / ".." / "b", tmp_path / "a")
    assert not lexically_below(tmp_path / "ab", tmp_path / "a")
