"""A picture made larger."""

from studio.features.feature import Feature, Verb
from studio.features.upscale.job import upscale
from studio.features.upscale.plan import plan
from studio.features.upscale.spec import UpscaleSpec

UPSCALE = Feature(UpscaleSpec, plan, upscale, Verb("Make a picture larger, by the studio's own network or another."))
