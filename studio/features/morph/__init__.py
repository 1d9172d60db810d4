"""From one emotion to another with the same character."""

from studio.features.feature import Feature, Verb
from studio.features.morph.job import morph
from studio.features.morph.plan import plan
from studio.features.morph.spec import MorphSpec

MORPH = Feature(
    MorphSpec,
    plan,
    morph,
    Verb(
        "From one emotion to another, or through a chain of them, with the same character.",
        without=("emotion", "count", "source", "strength"),
    ),
)
