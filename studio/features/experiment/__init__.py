"""A/B comparison of prompts."""

from studio.features.experiment.job import experiment
from studio.features.experiment.plan import plan
from studio.features.experiment.spec import ExperimentSpec
from studio.features.feature import Feature

EXPERIMENT = Feature(ExperimentSpec, plan, experiment)
