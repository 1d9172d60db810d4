"""A training set is looked for, and who writes for it, before anything is queued."""

from __future__ import annotations

from pathlib import Path

from studio.engine.models import captioners
from studio.features.caption.spec import CaptionSpec
from studio.features.feature import Planned, Planning
from studio.runs import dataset


def plan(spec: CaptionSpec, planning: Planning) -> Planned:
    """No picture is drawn. Raises NotFound for a set or a captioner that isn't here."""
    folder = dataset.folder_of(Path(spec.data).expanduser(), planning.settings.datasets_dir)
    captioner = captioners.find(spec.captioner, planning.settings)
    return Planned(
        spec.model_copy(update={"data": str(folder), "captioner": captioner.reference}),
        complete=False,
        title=f"captions for {folder.name}",
        model_title=captioner.title,
        result={"folder": str(folder)},
    )
