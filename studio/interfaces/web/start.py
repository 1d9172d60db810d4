"""`python -m studio.interfaces.web.start`, which is what `make run` does: the app at the settings' address and port.

Streamlit binds its socket before it reads the app, so that STUDIO_HOST and STUDIO_PORT have to be said beforehand.
More options are Streamlit's own and go first, as do its variables. Who may listen where is the front door's to say
(`studio.interfaces.web.gate`), which refuses an address that others can reach when there is no password. It is asked
here already, and whether the port is free: Streamlit would say where the app can be found before it reads the app.
"""

from __future__ import annotations

import errno
import os
import socket
import sys
from collections.abc import Mapping
from contextlib import suppress

from pydantic import ValidationError

from studio.core.i18n import texts
from studio.core.settings import REPOSITORY, Settings, settings

TEXT = {
    "busy": "Port {port} is in use already: end what listens there, or choose another one with STUDIO_PORT "
    "(STUDIO_PORT={next} for example).",
}
TEXT = texts(TEXT)


def variables(chosen: Settings, environment: Mapping[str, str]) -> dict[str, str]:
    """What Streamlit has to be told, as variables of its own; those that are in `environment` already stay.

    An address that nobody set is left to `.streamlit/config.toml`.
    """
    told = {"STREAMLIT_SERVER_PORT": str(chosen.port)}
    if "host" in chosen.model_fields_set:
        told["STREAMLIT_SERVER_ADDRESS"] = chosen.host
    return {name: value for name, value in told.items() if name not in environment}


def refusal(chosen: Settings, environment: Mapping[str, str]) -> str | None:
    """Why the app can't listen where these settings and variables say, as one sentence; None when it can."""
    from studio.interfaces.web.gate import check

    address = environment.get("STREAMLIT_SERVER_ADDRESS", "127.0.0.1")
    port = environment.get("STREAMLIT_SERVER_PORT", "")
    try:
        check(chosen, address)
    except ValueError as error:
        return str(error)
    try:
        with socket.create_server((address, int(port)), family=socket.AF_INET6 if ":" in address else socket.AF_INET):
            return None
    except (OSError, OverflowError, ValueError) as error:
        if getattr(error, "errno", None) == errno.EADDRINUSE:
            return TEXT["busy"].format(port=port, next=int(port) + 1 if int(port) < 65535 else 8501)
        return None  # Streamlit says it


def main(arguments: list[str]) -> None:
    """`streamlit run streamlit_app.py` with `arguments`, in this process. Doesn't return."""
    with suppress(ValidationError):  # the front door says which setting is wrong, and ends the process
        os.environ.update(variables(settings(), os.environ))
        elsewhere = any(argument.startswith(("--server.address", "--server.port")) for argument in arguments)
        if not elsewhere and (problem := refusal(settings(), os.environ)):
            print(problem, file=sys.stderr, flush=True)
            raise SystemExit(2)
    from streamlit.web.cli import main as streamlit

    streamlit(["run", str(REPOSITORY / "streamlit_app.py"), *arguments], prog_name="streamlit")


if __name__ == "__main__":
    main(sys.argv[1:])
