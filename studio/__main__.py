"""`python -m studio`: the command line."""

import sys

from studio.interfaces.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
