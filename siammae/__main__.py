"""``python -m siammae`` is the command ``siammae``."""

import sys

from siammae.cli import main

if __name__ == "__main__":
    sys.exit(main())
