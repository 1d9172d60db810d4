"""Fields that whatever moves has: the emotions in order, the speed, the file."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from studio.core.fields import About
from studio.core.specs import AnimationFormat, Easing

EASINGS = {"linear": "Even", "ease": "Slow at both ends", "ease_in": "Slow start", "ease_out": "Slow end"}
FORMATS = {"gif": "GIF", "apng": "APNG", "webp": "WebP", "mp4": "MP4", "zip": "ZIP of PNGs"}


EasingField = Annotated[
    Easing,
    Field(title="Easing", description="How fast the emotion changes along the way."),
    About(names=EASINGS, advanced=True),
]
PingPong = Annotated[
    bool,
    Field(title="Back and forth", description="Play back to the first frame, or don't."),
    About(option="--pingpong/--once", advanced=True),
]
FramesASecond = Annotated[
    int, Field(title="Frames per second", description="How fast it plays.", ge=1, le=30), About(advanced=True)
]
Format = Annotated[
    AnimationFormat, Field(title="Format", description="Of the file."), About(names=FORMATS, advanced=True)
]
