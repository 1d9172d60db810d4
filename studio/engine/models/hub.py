"""The Hugging Face Hub: which models are on this machine already, and getting others, safetensors only.

Knows nothing of what a model means; loads no torch.
"""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from studio.core.errors import BadInput, DiskFull, NotFound, Offline
from studio.core.settings import Settings
from studio.engine.models.weights import Header, Tensor

if TYPE_CHECKING:
    from huggingface_hub.utils._safetensors import SafetensorsFileMetadata

WEIGHTED = ("unet", "vae", "text_encoder")
MODEL = (*WEIGHTED, "tokenizer", "scheduler")
SECOND = ("text_encoder_2", "tokenizer_2")  # of models that have two
_SMALL = (".json", ".txt", ".model")
_TOKENIZERS = (("vocab.json", "merges.txt"), ("tokenizer.json",))  # either of them is enough
TELL_SECONDS = 4.0  # that a request waits for the hub to say what kind of model it is asked for
_TELLING = ("model_index.json", "unet/config.json")  # what kind of model it is


def cache() -> Path:
    """The Hub's own cache folder (HF_HOME), shared with every other program on this machine."""
    from huggingface_hub.constants import HF_HUB_CACHE

    return Path(HF_HUB_CACHE)


def parts(index: Mapping[str, Any]) -> tuple[str, ...]:
    """The folders that are needed of a model with this `model_index.json`."""
    second = (name for name in SECOND if isinstance(index.get(name), list) and index[name][-1])
    return (*MODEL, *second)


def snapshot(reference: str, components: Sequence[str] | None = None) -> Path | None:
    """The folder of a complete copy of the hub repository `reference` on this machine, or None.

    Complete are all of `components`, "" standing for a network that is the whole repository; without `components` all
    parts of a model, or the one file that it is: then the path of that.
    """
    repository = _repository(reference)
    for folder in sorted(repository.glob("snapshots/*"), key=lambda folder: folder.stat().st_mtime, reverse=True):
        index = folder / "model_index.json"
        if components is None and not index.exists():
            single = single_file({file.name: 0 for file in folder.iterdir() if file.exists()})
            if single is not None:
                return folder / single
        wanted = components if components is not None else parts(_readable(index))
        if all(_complete(folder / name) for name in wanted):
            return folder
    return None


def single_file(sizes: Mapping[str, int]) -> str | None:
    """The whole model in a repository that has no folders of diffusers: its only safetensors file, or its largest."""
    if "model_index.json" in sizes or any(name.startswith("unet/") for name in sizes):
        return None
    files = [name for name in sizes if name.endswith(".safetensors") and "/" not in name]
    return max(files, key=lambda name: sizes[name]) if files else None


def _readable(path: Path) -> dict[str, Any]:
    """A JSON object in a file; an empty one where there is none."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return data if isinstance(data, dict) else {}


def _repository(reference: str) -> Path:
    return cache() / ("models--" + reference.replace("/", "--"))


def _complete(folder: Path) -> bool:
    if folder.name.startswith("tokenizer"):
        return any(all((folder / name).exists() for name in files) for files in _TOKENIZERS)
    if folder.name == "scheduler":
        return (folder / "scheduler_config.json").exists()
    if not (folder / "config.json").exists():
        return False
    # a model saved in shards, by diffusers or by transformers, lists them
    for index in (folder / f"{name}.safetensors.index.json" for name in ("diffusion_pytorch_model", "model")):
        if index.is_file():
            wanted = set(json.loads(index.read_text(encoding="utf-8")).get("weight_map", {}).values())
            return all((folder / name).exists() for name in wanted)
    return any(file.exists() for file in folder.glob("*.safetensors"))


def cached_models() -> list[str]:
    """Ids of all complete text-to-image models in the Hub's cache."""
    references = []
    for index in sorted(cache().glob("models--*--*/snapshots/*/model_index.json")):
        reference = index.parent.parent.parent.name.removeprefix("models--").replace("--", "/", 1)
        if reference not in references and snapshot(reference) is not None:
            references.append(reference)
    return references


def cached_file(reference: str, name: str) -> Path | None:
    """One file of a hub repository, if it is on this machine."""
    for folder in _repository(reference).glob(f"snapshots/*/{name}"):
        if folder.exists():
            return folder
    return None


def chosen_files(sizes: dict[str, int], components: Sequence[str], half: bool) -> dict[str, int]:
    """Which files of a repository are needed, from all of its names and sizes: safetensors, each weight once.

    `half`: take the 16-bit variant of every component that has one. Empty when a component has no safetensors.
    """
    chosen: dict[str, int] = {}
    for component in components:
        prefix = f"{component}/" if component else ""
        here = {
            name: size for name, size in sizes.items() if name.startswith(prefix) and "/" not in name[len(prefix) :]
        }
        weights = {
            name: size for name, size in here.items() if name.endswith(".safetensors") and ".non_ema." not in name
        }
        fp16 = {name: size for name, size in weights.items() if ".fp16." in name}
        full = {name: size for name, size in weights.items() if ".fp16." not in name}
        if component.removesuffix("_2") in WEIGHTED or not component:
            if not weights:
                return {}
            chosen |= (fp16 or full) if half else (full or fp16)
        chosen |= {name: size for name, size in here.items() if name.endswith(_SMALL) and size < 50_000_000}
    if len(components) > 1:
        chosen |= {name: sizes[name] for name in ("model_index.json", "studio.json") if name in sizes}
    return chosen


def get(
    reference: str,
    settings: Settings,
    on_note: Callable[[str], None] | None = None,
    components: Sequence[str] | None = None,
    half: bool = False,
    accept: Callable[[dict[str, Any]], object] | None = None,
    accept_file: Callable[[str, Header], object] | None = None,
) -> Path:
    """A complete copy of the hub repository `reference`, downloaded when it isn't here; interrupted ones continue.

    The result and `components` are as for `snapshot`. `on_note` is told how far it is, several times a second, and may
    raise `Cancelled`. `accept` is given each configuration that says what the model is, and may raise before any weight
    is downloaded: what the hub tells of a model in one part, `model_index.json` and then `unet/config.json` of one in
    several. `accept_file` is given the name and header of a model in one file. Raises Offline, NotFound, BadInput
    (pickles only) and DiskFull.
    """
    here = snapshot(reference, components)
    if here is not None:
        return here
    _refuse_offline(reference, settings)
    from huggingface_hub import HfApi, snapshot_download

    token = _token(settings)
    with _said(reference):
        api = HfApi(endpoint=settings.hf_endpoint, token=token)
        listing = api.model_info(reference, files_metadata=True, timeout=15)
        sizes = {file.rfilename: int(file.size or 0) for file in listing.siblings or ()}

        def fetch(names: Sequence[str], meter: _Meter) -> Path:
            return Path(
                snapshot_download(
                    reference,
                    revision=listing.sha,
                    allow_patterns=sorted(names),
                    endpoint=settings.hf_endpoint,
                    token=token,
                    tqdm_class=meter.bar(),
                )
            )

        if components is None and (single := single_file(sizes)) is not None:
            if accept_file is not None:
                accept_file(single, _header(api.parse_safetensors_file_metadata(reference, single)))
            _check_room(reference, str(listing.sha), {single: sizes[single]})
            return fetch([single], _Meter(reference, sizes[single], on_note)) / single
        if accept is not None and components is not None and len(components) == 1 and listing.config:
            accept(listing.config)
        elif components is None or len(components) > 1:
            told = {}
            for name in _TELLING:
                if name in sizes:
                    told[name] = _json(fetch([name], _Meter(reference, sizes[name], None)) / name, reference)
                    if accept is not None:
                        accept(told[name])
            components = components or parts(told.get(_TELLING[0], {}))
        files = chosen_files(sizes, components, half)
        if not files:
            raise BadInput(
                f"{reference} has no .safetensors weights for every part, and pickles are refused; choose another."
            )
        _check_room(reference, str(listing.sha), files)
        return fetch(sorted(files), _Meter(reference, sum(files.values()), on_note))


def get_file(
    reference: str, name: str, size: int, settings: Settings, on_note: Callable[[str], None] | None = None
) -> Path:
    """One file of `size` bytes of a hub repository, downloaded when it isn't here. Raises as `get`."""
    here = cached_file(reference, name)
    if here is not None:
        return here
    _refuse_offline(reference, settings)
    from huggingface_hub import snapshot_download

    with _said(reference):
        _check_room(reference, "", {name: size})
        folder = snapshot_download(
            reference, allow_patterns=[name], endpoint=settings.hf_endpoint, token=_token(settings),
            tqdm_class=_Meter(reference, size, on_note).bar(),
        )  # fmt: skip
        return Path(folder) / name


def _refuse_offline(reference: str, settings: Settings) -> None:
    if settings.offline:
        raise Offline(
            f"{reference} is not on this machine and STUDIO_OFFLINE is on; use the embedded model or a local file."
        )


def _token(settings: Settings) -> str | None:
    return settings.hf_token.get_secret_value() if settings.hf_token else None


@contextmanager
def _said(reference: str) -> Iterator[None]:
    """What goes wrong with the hub, in sentences."""
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, OfflineModeIsEnabled, RepositoryNotFoundError

    try:
        yield
    except GatedRepoError:
        raise NotFound(
            f"{reference} asks for permission first: accept its terms on the hub and set STUDIO_HF_TOKEN."
        ) from None
    except RepositoryNotFoundError:
        raise NotFound(f"There is no model {reference} on the hub; check its name.") from None
    except (OfflineModeIsEnabled, ConnectionError, TimeoutError) as error:
        raise _offline(reference) from error
    except HfHubHTTPError as error:
        status = getattr(error.response, "status_code", "no answer")
        raise Offline(f"The hub answered {reference} with an error ({status}); try again later.") from error
    except OSError as error:
        if error.errno == 28:
            raise DiskFull(f"The disk is full: {reference} was not downloaded; make room and try again.") from None
        raise _offline(reference) from error
    except Exception as error:
        # network failures have a different class in each HTTP library that the hub's client has used
        if type(error).__module__.split(".")[0] in ("httpx", "httpcore", "httpx2", "httpcore2", "requests", "urllib3"):
            raise _offline(reference) from error
        raise


def _check_room(reference: str, revision: str, files: Mapping[str, int]) -> None:
    """Raise DiskFull when what is still missing of `files` is larger than the room on the disk of the Hub's cache."""
    here = _repository(reference) / "snapshots" / revision
    missing = sum(size for name, size in files.items() if not (here / name).exists())
    folder = next(folder for folder in (cache(), *cache().parents) if folder.is_dir())
    free = shutil.disk_usage(folder).free
    if missing > free:
        raise DiskFull(
            f"{reference} needs {missing / 1e9:.1f} GB and the disk has {free / 1e9:.1f} GB free; "
            f"make room in {folder}."
        )


def _header(told: SafetensorsFileMetadata) -> Header:
    """What the hub's client tells of a safetensors file (its `SafetensorsFileMetadata`) as we read one ourselves."""
    tensors = {name: Tensor(str(one.dtype), tuple(one.shape)) for name, one in told.tensors.items()}
    return Header(tensors, {key: str(value) for key, value in told.metadata.items()})


def tell(reference: str, settings: Settings) -> None:
    """Get the small file that says what kind of model `reference` is, before it is downloaded, if that is possible.

    Whoever resolves it then knows its family. A hub that can't be reached, or doesn't know it, is no error yet.
    """
    name = _TELLING[1]
    if settings.offline or cached_file(reference, name) is not None:
        return
    from huggingface_hub import hf_hub_download

    token = _token(settings)
    # network failures have a different class in each HTTP library; the download itself will say what is wrong
    with suppress(Exception):
        hf_hub_download(reference, name, endpoint=settings.hf_endpoint, token=token, etag_timeout=TELL_SECONDS)


def _json(path: Path, reference: str) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        data = None
    if not isinstance(data, dict):
        raise BadInput(f"{path.name} of {reference} is not readable JSON; choose another model.")
    return data


def _offline(reference: str) -> Offline:
    return Offline(
        f"{reference} is not on this machine and the hub can't be reached; use the embedded model or a local file."
    )


class _Meter:
    """Adds up the bytes that all download threads report, for one note."""

    def __init__(self, reference: str, total: int, on_note: Callable[[str], None] | None) -> None:
        self._reference, self._total, self._on_note = reference, max(1, total), on_note
        self._done, self._lock = 0, threading.Lock()

    def add(self, count: float) -> None:
        with self._lock:
            self._done += int(count)
            done = min(self._done, self._total)
        if self._on_note is not None:
            self._on_note(f"downloading {self._reference}: {done / 1e6:,.0f} of {self._total / 1e6:,.0f} MB")

    def bar(self) -> type:
        """A progress-bar class that draws nothing and reports bytes here."""
        from tqdm.auto import tqdm

        meter = self

        class Bar(tqdm):
            def __init__(self, *args: Any, **kwargs: Any) -> None:
                kwargs.pop("name", None)
                super().__init__(*args, **{**kwargs, "disable": True})
                self._bytes = kwargs.get("unit") == "B"

            def update(self, n: float | None = 1) -> bool | None:
                if self._bytes and n:
                    meter.add(n)
                return None

        return Bar
