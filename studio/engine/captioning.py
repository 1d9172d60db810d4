"""First captions for pictures: what the judge sees, what a tagger is sure of, or what a captioner writes.

Somebody else's model is read as safetensors only, and never with code of its own. Knows no folder of pictures and no
job: pictures in, one caption each out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Protocol

import torch
from PIL import Image

from studio.core.errors import BadInput, OutOfMemory, is_out_of_memory
from studio.core.settings import Settings
from studio.engine import judging, memory, optimizations
from studio.engine.models import captioners, hub
from studio.engine.models.captioners import CaptionerInfo
from studio.engine.models.loading import in_turn, quiet

TAG_SURE = 0.35  # what SmilingWolf's and kohya's taggers use
MANY = 1000  # with more labels than ImageNet has, a classifier is one of tags, also where its config doesn't say so
FAULTS = (
    ImportError, OSError, MemoryError, ValueError, LookupError, TypeError, AttributeError, RuntimeError,
)  # fmt: skip
WORDS = 40  # tokens of a sentence at most
BEAMS = 3


class Captioner(Protocol):
    """RGB pictures of any size in, a caption for each out; "" where nothing was sure enough."""

    batch: int  # how many at once are quickest

    def __call__(self, pictures: Sequence[Image.Image]) -> list[str]: ...


def load(
    info: CaptionerInfo,
    settings: Settings,
    threshold: float | None = None,
    style: bool = False,
    on_note: Callable[[str], None] | None = None,
) -> Captioner:
    """The captioner itself, downloaded first when it isn't here.

    `threshold` (0 to 1): what is less sure is left out; None: the captioner's own; a writer has none. `style`: the
    judge names the style too. `on_note` is told what takes time, and may raise `Cancelled`. Raises BadInput for a
    damaged model, Offline, NotFound, DiskFull, and OutOfMemory.
    """
    note = on_note or (lambda text: None)
    if info.kind == "judge":
        assert info.path is not None
        return _Judge(info.path, threshold, style)
    if info.path is None:
        hub.get(
            info.reference,
            settings,
            note,
            components=("",),
            accept=partial(captioners.kind_of, title=info.reference),
        )
        info = captioners.find(info.reference, settings)
    note(f"loading {info.title}")
    exact = settings.model_copy(update={"precision": "fp32"})  # as these networks are loaded
    decided = optimizations.plan(exact, info.size_bytes)
    device = torch.device("cpu") if decided.offload else decided.device  # the card may be full of the model that draws
    if info.size_bytes > memory.SHARE * memory.free(torch.device("cpu")):
        size = f"{info.size_bytes / 1e9:.1f} GB"
        raise OutOfMemory(f"{info.title} needs {size} of memory, more than is free; choose a smaller captioner.")
    with quiet(), _sentences(info.title):
        if info.kind == "tagger":
            return Tagger(info, device, TAG_SURE if threshold is None else threshold)
        return Writer(info, device)


class _Judge:
    batch = 16

    def __init__(self, folder: Path, threshold: float | None, style: bool) -> None:
        self.folder, self.threshold, self.style = folder, threshold, style

    def __call__(self, pictures: Sequence[Image.Image]) -> list[str]:
        return [", ".join(tags) for tags in judging.tags(self.folder, pictures, self.threshold, self.style)]


class _Model:
    """Somebody else's network with its preprocessing, on one device in 32 bits."""

    @in_turn
    def __init__(self, info: CaptionerInfo, device: torch.device) -> None:
        import transformers  # seconds, for those who never use it

        assert info.path is not None
        safe = {"local_files_only": True, "trust_remote_code": False}
        # PIL's arithmetic: torchvision isn't a dependency, and where it is installed nothing changes
        self.processor = transformers.AutoImageProcessor.from_pretrained(info.path, backend="pil", **safe)
        network, report = getattr(transformers, info.architecture).from_pretrained(
            info.path,
            dtype=torch.float32,
            use_safetensors=True,
            attn_implementation="eager",  # a config may name a kernel of the hub, which would be code
            output_loading_info=True,
            **safe,
        )
        missing = [name for name in report.get("missing_keys", ()) if not self.spare(name)]
        if missing or report.get("mismatched_keys"):  # filled with random numbers
            raise ValueError(f"{len(missing) or 'some'} layers are missing or of another shape")
        self.network = network.eval().requires_grad_(False).to(device)
        self.title = info.title
        self.device = device
        # on the CPU more at once are no quicker, and a cancel waits for all of them
        self.batch = 1 if device.type == "cpu" else 8

    @staticmethod
    def spare(name: str) -> bool:
        """Whether the model works without this weight."""
        return name.endswith("position_ids")

    def __call__(self, pictures: Sequence[Image.Image]) -> list[str]:
        with quiet(), _sentences(self.title), torch.no_grad():
            pixels = self.processor(images=list(pictures), return_tensors="pt")["pixel_values"]  # (n, 3, h, w)
            return self.captions(pixels.to(self.device))

    def captions(self, pixels: torch.Tensor) -> list[str]:
        raise NotImplementedError


class Tagger(_Model):
    """An image classifier. With one label a picture it gives the likeliest, with several all that are likely enough."""

    def __init__(self, info: CaptionerInfo, device: torch.device, threshold: float) -> None:
        super().__init__(info, device)
        config = self.network.config
        labels = [str(config.id2label[index]) for index in range(config.num_labels)]
        if all(re.fullmatch(r"LABEL_\d+", label) for label in labels):
            raise BadInput(f"{info.title} has no names for its labels (id2label in its config.json); choose another.")
        self.names = [tag_of(label) for label in labels]
        self.several = config.problem_type == "multi_label_classification" or (
            config.problem_type is None and len(labels) > MANY
        )
        self.threshold = threshold

    def captions(self, pixels: torch.Tensor) -> list[str]:
        logits = self.network(pixel_values=pixels).logits.float().cpu()  # (n, labels)
        sure = logits.sigmoid() if self.several else logits.softmax(1)
        return [", ".join(likely(self.names, row.tolist(), self.threshold, self.several)) for row in sure]


class Writer(_Model):
    """An image-to-text model: one sentence a picture, by beam search, the same every time."""

    def __init__(self, info: CaptionerInfo, device: torch.device) -> None:
        from transformers import AutoTokenizer

        super().__init__(info, device)
        self.tokenizer = AutoTokenizer.from_pretrained(info.path, local_files_only=True, trust_remote_code=False)

    @staticmethod
    def spare(name: str) -> bool:
        # an encoder's pooled output isn't read by a decoder, and published models lack it
        return name.endswith("position_ids") or ".pooler." in name

    def captions(self, pixels: torch.Tensor) -> list[str]:
        tokens = self.network.generate(pixel_values=pixels, max_new_tokens=WORDS, num_beams=BEAMS, do_sample=False)
        return [" ".join(text.split()) for text in self.tokenizer.batch_decode(tokens, skip_special_tokens=True)]


def likely(names: Sequence[str], sure: Sequence[float], threshold: float, several: bool) -> list[str]:
    """The names whose probability (0 to 1) is at least `threshold`, the likeliest first; one at most unless `several`.

    Names that are "" are passed over.
    """
    order = sorted(range(len(names)), key=lambda index: -sure[index])
    chosen = [names[index] for index in (order if several else order[:1]) if sure[index] >= threshold and names[index]]
    return list(dict.fromkeys(chosen))


def tag_of(label: str) -> str:
    """A label as a tag: `long_hair` is `long hair`, brackets stay, and an emoticon such as `^_^` stays as it is.

    Of several names for one thing (ImageNet's, with commas) the first. "" for a rating, which says nothing of a picture
    that could be drawn.
    """
    name = label.split(",")[0].strip()
    if re.match(r"rating[:_]", name):
        return ""
    blank = name.replace("_", " ")
    return blank if re.search(r"\w\w", blank) else name


@contextmanager
def _sentences(title: str) -> Iterator[None]:
    """What the library says about a model that it can't use, as one sentence."""
    try:
        yield
    except FAULTS as error:
        if is_out_of_memory(error):
            raise OutOfMemory(f"The memory didn't suffice for {title}; choose a smaller captioner.") from error
        first = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise BadInput(f"{title} can't caption pictures ({first[:160]}); get it again or choose another.") from error
