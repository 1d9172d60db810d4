"""A part of a picture drawn anew; every other pixel stays."""

from studio.features.feature import Feature, Verb
from studio.features.inpaint.job import inpaint
from studio.features.inpaint.plan import plan
from studio.features.inpaint.spec import InpaintSpec

INPAINT = Feature(
    InpaintSpec,
    plan,
    inpaint,
    Verb(
        "Draw what a mask covers in a picture anew, and leave every other pixel as it is.",
        without=("source", "emotion", "style"),
    ),
)
