"""What can be set from outside: one environment variable per field, `STUDIO_` in front.

A `.env` file beside the working directory is read too. Nothing here imports torch or touches a device: "auto" is
resolved by the engine, in the worker that owns the device.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Literal

from pydantic import AliasChoices, Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

REPOSITORY = Path(__file__).resolve().parents[2]
ASSETS = REPOSITORY / "assets"
EMBEDDED_MODEL = ASSETS / "models" / "embedded"
EMBEDDED_UPSCALER = ASSETS / "models" / "upscaler" / "upscaler.safetensors"


class Settings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="STUDIO_", env_file=".env", extra="ignore", frozen=True)

    home: Path = Field(Path("data"), description="Everything the studio writes: images, runs, data sets, models.")
    model: str = Field("embedded", description="The model that pages start with.")
    device: Literal["auto", "cpu", "cuda", "mps"] = Field("auto", description="Where models run.")
    precision: Literal["auto", "fp16", "bf16", "fp32"] = Field("auto", description="What models compute in.")
    compile: bool = Field(False, description="torch.compile the UNet: minutes of warm-up, a few percent faster.")
    named_only: bool = Field(
        False, description="Models, LoRAs and ControlNets are named, not given as paths. The API always does so."
    )
    warm_up: bool = Field(True, description="Load the model as soon as a page is opened, not for the first picture.")
    offline: bool = Field(False, description="Never ask the model hub, even when a network is there.")
    preview_every: int = Field(2, ge=0, le=50, description="Steps between live previews; 0 turns them off.")
    max_pixels: int = Field(2048 * 2048, ge=64 * 64, description="Largest picture that may be asked for.")
    max_upload_mb: int = Field(20, ge=1, le=2048, description="Largest file that pages and API accept.")
    queue_limit: int = Field(64, ge=1, description="Jobs that may wait at once.")
    images_mb: int = Field(
        0, ge=0, description="Disk for pictures: beyond it those go that nobody asked for the longest; 0: no bound."
    )
    cache_mb: int = Field(4096, ge=0, description="Disk for deleted pictures, which can be brought back for a day.")

    log_format: Literal["auto", "json", "text"] = Field(
        "auto", description="Lines that the API writes: JSON, or text (what it is in a terminal)."
    )
    key_requests: int = Field(0, ge=0, description="Requests a minute that a key of the API may send; 0: any number.")
    key_pictures: int = Field(0, ge=0, description="Pictures a day that a key may have drawn; 0: any number.")

    lang: str = Field("", description="Language of whoever has chosen none, as in `ja`; pages ask the browser first.")
    host: str = Field("127.0.0.1", description="Address that `make run` and the API bind to.")
    port: int = Field(8501, ge=1, le=65535, description="Port that `make run` binds to; the API has an option.")
    one_gallery: bool = Field(
        True, description="Without a password everybody at this computer is one person; off: each browser for itself."
    )
    password: SecretStr | None = Field(None, description="Asked for before any page; required beyond loopback.")
    api_key: SecretStr | None = Field(None, description="Bearer key of the API; required beyond loopback.")

    backend: str | None = Field(
        None, pattern=r"^https?://[^\s/]+/?$", description="Another studio's API, which draws in this computer's place."
    )
    backend_key: SecretStr | None = Field(None, description="A key of that API.")

    anthropic_api_key: SecretStr | None = Field(
        None,
        validation_alias=AliasChoices("studio_anthropic_api_key", "anthropic_api_key"),
        description="Lets Claude write prompts. ANTHROPIC_API_KEY, as Anthropic names it, works too.",
    )
    anthropic_base_url: str | None = Field(None, description="Another address for the Messages API.")
    writer_model: str = Field("claude-haiku-4-5", description="Claude model of the prompt writer.")
    hf_token: SecretStr | None = Field(None, description="Token for uploads to the Hugging Face Hub.")
    hf_endpoint: str | None = Field(None, description="Another address for the Hugging Face Hub.")

    @property
    def images_dir(self) -> Path:
        return self.home / "images"

    @property
    def runs_dir(self) -> Path:
        return self.home / "runs"

    @property
    def datasets_dir(self) -> Path:
        return self.home / "datasets"

    @property
    def models_dir(self) -> Path:
        return self.home / "models"

    @property
    def hashes(self) -> Path:
        """What large files were found to be, so that gigabytes are read once."""
        return self.home / "hashes.json"

    @property
    def database(self) -> Path:
        return self.home / "studio.db"


@lru_cache
def settings() -> Settings:
    """The settings of this process, read once. Tests build `Settings(home=tmp_path)` instead."""
    return Settings()
