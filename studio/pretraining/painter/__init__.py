"""Original anime characters drawn by code: every factor chosen, every picture labelled by construction.

>>> spec = sample_spec(random.Random(1), emotion="happy")
>>> paint(spec, size=256, seed=1), tags(spec)

The only package that imports skia, a development dependency: nothing that the running studio needs may import it.
This package does not know models or training.
"""

from .captions import tags, vocabulary
from .handmade import bend, hand_lines
from .parts import PARTS
from .picture import Masks, face_boxes, line_art, masks, paint
from .sampling import sample_spec
from .spec import CharacterSpec

__all__ = [
    "PARTS",
    "CharacterSpec",
    "Masks",
    "bend",
    "face_boxes",
    "hand_lines",
    "line_art",
    "masks",
    "paint",
    "sample_spec",
    "tags",
    "vocabulary",
]
