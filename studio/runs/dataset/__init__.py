"""A training set on disk: unpack it, find what is wrong with it, read and edit its captions.

`style_1/`, `style_2/` are trigger words, unless the captions inside begin with one of their own; kohya's `10_name/` is
ten repeats of the trigger word `name`, and of its projects only `img/` counts (`layout`). A caption is a `.txt` or
`.caption` file beside its picture (kohya) or a line of `metadata.jsonl` with `file_name` and `text` (diffusers), in any
encoding that can be told (`captions`); `NAME.control.png` is the drawing of the picture NAME, for a ControlNet. Nothing
here decodes for training or knows a model: that is `training`.
"""

from studio.runs.dataset.archive import folder_of
from studio.runs.dataset.captions import write_captions
from studio.runs.dataset.check import automatic_repeats, behind_triggers, check, fingerprint, upright
from studio.runs.dataset.checked import checked
from studio.runs.dataset.kept import OwnedDatasets
from studio.runs.dataset.tags import add_tags, remove_tags, replace_tag, split_tags, tag_counts
from studio.runs.dataset.views import CAPTIONS, DRAWN, LISTS, PICTURES, Entry, Problem, Report

__all__ = [
    "CAPTIONS",
    "DRAWN",
    "LISTS",
    "PICTURES",
    "Entry",
    "OwnedDatasets",
    "Problem",
    "Report",
    "add_tags",
    "automatic_repeats",
    "behind_triggers",
    "check",
    "checked",
    "fingerprint",
    "folder_of",
    "remove_tags",
    "replace_tag",
    "split_tags",
    "tag_counts",
    "upright",
    "write_captions",
]
