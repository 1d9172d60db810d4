"""The only door: pages, command line and HTTP call `Studio`, and nothing behind it."""

from studio.service.studio import (
    ModelInfo,
    PromptRequest,
    PromptResult,
    Report,
    Studio,
    Validation,
    add_tags,
    parse_run,
    parse_spec,
    remove_tags,
    replace_tag,
)

__all__ = [
    "ModelInfo",
    "PromptRequest",
    "PromptResult",
    "Report",
    "Studio",
    "Validation",
    "add_tags",
    "parse_run",
    "parse_spec",
    "remove_tags",
    "replace_tag",
]
