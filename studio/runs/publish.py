"""A finished LoRA on the Hugging Face Hub. Knows the folder that an export left, not how it was made."""

from __future__ import annotations

import re
from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError

from studio.core.errors import BadInput, Offline
from studio.core.settings import Settings

_TRANSPORTS = ("httpx", "httpcore", "httpx2", "httpcore2", "requests", "urllib3")
_REPOSITORY = re.compile(r"[\w][\w.-]*/[\w][\w.-]*")


def publish(adapter: Path, repository: str, settings: Settings, private: bool = True) -> str:
    """Upload the folder of an exported adapter with its card to `repository` (`you/name`); the address of the commit.

    Nobody but the owner sees it unless `private` is False: a repository that others see already is refused then.
    Raises BadInput without a token, without an export or when the Hub refuses, Offline when it can't be reached.
    """
    if settings.offline:
        raise Offline("The studio is set to stay offline (STUDIO_OFFLINE): nothing is uploaded.")
    if settings.hf_token is None:
        raise BadInput("An upload needs a Hugging Face token with write access: set STUDIO_HF_TOKEN.")
    if not _REPOSITORY.fullmatch(repository):
        raise BadInput(f"{repository!r} is not a repository of the Hub: give it as you/name.")
    if not list(adapter.glob("*.safetensors")):
        raise BadInput("There is no finished LoRA to upload yet.")
    api = HfApi(endpoint=settings.hf_endpoint, token=settings.hf_token.get_secret_value())
    try:
        api.create_repo(repository, private=private, exist_ok=True)
        if private and not api.repo_info(repository).private:  # it was there before, and stays as it is
            raise BadInput(f"Anybody can see {repository}: allow that for this upload, or choose another name.")
        commit = api.upload_folder(
            repo_id=repository,
            folder_path=adapter,
            commit_message=f"Upload {adapter.parent.name}",
            ignore_patterns="epochs/*",
        )
    except HfHubHTTPError as error:
        reason = (error.server_message or str(error)).splitlines()[0][:200]
        raise BadInput(f"The Hub refused the upload to {repository}: {reason}") from error
    except ValueError as error:  # the Hub doesn't like the card
        raise BadInput(f"The Hub refused the upload to {repository}: {str(error).splitlines()[-1][:200]}") from error
    except Exception as error:
        # No connection, or it broke: of a class of whatever HTTP library the client is built on in this version.
        if not isinstance(error, OSError) and type(error).__module__.partition(".")[0] not in _TRANSPORTS:
            raise
        raise Offline(
            f"The Hub can't be reached ({type(error).__name__}): try again later; the LoRA is kept here."
        ) from error
    return str(commit.commit_url)
