"""Pictures of one prompt."""

from studio.core.specs import GenerateSpec
from studio.features.feature import Feature, Verb
from studio.features.generate.job import generate
from studio.features.generate.plan import plan

GENERATE = Feature(GenerateSpec, plan, generate, Verb("Draw pictures."))
