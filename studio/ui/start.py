"""Starts the app at the address and port of the settings: `python -m studio.ui.start`, which is what `make run` does.

Streamlit binds its socket before it reads the app, so that STUDIO_HOST and STUDIO_PORT have to be said beforehand.
More options are Streamlit's own and go first, as do its variables. Who may listen where is the front door's to say
(`studio.ui.gate`), which refuses an address that others can reach when there is no password.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from contextlib import suppress

from pydantic import ValidationError

from studio.settings import REPOSITORY, Settings, settings


def variables(chosen: Settings, environment: Mapping[str, str]) -> dict[str, str]:
    """What Streamlit has to be told, as variables of its own; those that are in `environment` already stay.

    An address that nobody set is left to `.streamlit/config.toml`.
    """
    told = {"STREAMLIT_SERVER_PORT": str(chosen.port)}
    if "host" in chosen.model_fields_set:
        told["STREAMLIT_SERVER_ADDRESS"] = chosen.host
    return {name: value for name, value in told.items() if name not in environment}


def main(arguments: list[str]) -> None:
    """`streamlit run streamlit_app.py` with `arguments`, in this process. Doesn't return."""
    with suppress(ValidationError):  # the front door says which setting is wrong, and ends the process
        os.environ.update(variables(settings(), os.environ))
    from streamlit.web.cli import main as streamlit

    streamlit(["run", str(REPOSITORY / "streamlit_app.py"), *arguments], prog_name="streamlit")


if __name__ == "__main__":
    main(sys.argv[1:])
