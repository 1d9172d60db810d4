"""The only door: pages, command line and HTTP call `Studio`, and nothing behind it."""

from studio.core.specs.runs import parse_run
from studio.engine.models.catalogue import LoraInfo, ModelInfo
from studio.engine.models.upscalers import UpscalerInfo
from studio.features.registry import FEATURES, AnyRequest, parse_spec
from studio.prompting.knowledge import UnknownWord
from studio.prompting.leaving_out import standing
from studio.prompting.validation import Validation
from studio.prompting.writers import PromptRequest, PromptResult
from studio.runs.dataset import Report, add_tags, remove_tags, replace_tag
from studio.service.resolving import sampling
from studio.service.studio import Studio
from studio.store.keys import owner_of

# Besides `Studio`: what its methods take and give, and what edits a caption.
__all__ = [
    "FEATURES",
    "AnyRequest",
    "LoraInfo",
    "ModelInfo",
    "PromptRequest",
    "PromptResult",
    "Report",
    "Studio",
    "UnknownWord",
    "UpscalerInfo",
    "Validation",
    "add_tags",
    "owner_of",
    "parse_run",
    "parse_spec",
    "remove_tags",
    "replace_tag",
    "sampling",
    "standing",
]
