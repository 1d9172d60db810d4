"""First captions for a training set."""

from studio.features.caption.job import caption
from studio.features.caption.plan import plan
from studio.features.caption.spec import CaptionSpec
from studio.features.feature import Feature, Verb

CAPTION = Feature(
    CaptionSpec,
    plan,
    caption,
    Verb("Write first captions for a training set: for its pictures without one, or for all."),
)
