"""A drawing turned into the character."""

from studio.features.feature import Feature, Verb
from studio.features.sketch.job import sketch
from studio.features.sketch.plan import plan
from studio.features.sketch.spec import SketchSpec

SKETCH = Feature(SketchSpec, plan, sketch, Verb("Turn a drawing into the character.", without=("source", "strength")))
