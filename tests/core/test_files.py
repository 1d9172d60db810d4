"""Opening what somebody else named."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from studio.core.files import lexically_below, on_a_local_disk, open_regular, read_regular


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


@pytest.mark.parametrize(
    ("kind", "options", "local"),
    [
        ("ext4", "rw,relatime", True),
        ("overlay", "rw", True),
        ("NTFS", "rw,fixed", True),
        ("fuse.drive", "rw", False),  # Google Drive on Colab
        ("nfs4", "rw", False),
        ("cifs", "rw", False),
        ("9p", "rw", False),  # a drive of Windows in WSL
        ("NTFS", "rw,remote", False),  # a network drive on Windows
    ],
)
def test_a_disk_of_this_machine_is_told_from_one_behind_a_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, options: str, local: bool
) -> None:
    real = tmp_path.resolve()
    mounts = [
        SimpleNamespace(mountpoint="/", fstype="nfs4" if local else "ext4", opts="rw"),
        SimpleNamespace(mountpoint=str(real), fstype=kind, opts=options),
        SimpleNamespace(mountpoint=f"{real}er", fstype="nfs4" if local else "ext4", opts="rw"),  # begins alike
    ]
    monkeypatch.setattr(psutil, "disk_partitions", lambda all: mounts)
    (real / "link").symlink_to(real)
    assert on_a_local_disk(real / "link" / "home") == local
    monkeypatch.setattr(psutil, "disk_partitions", lambda all: [])
    assert on_a_local_disk(real)
