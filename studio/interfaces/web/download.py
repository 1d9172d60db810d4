"""What a person takes away from a page as one file. Knows folders, not what is in them."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path


def archive(folder: Path) -> bytes:
    """Everything in `folder` as a ZIP."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as bundle:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                bundle.write(path, path.relative_to(folder))
    return stream.getvalue()
