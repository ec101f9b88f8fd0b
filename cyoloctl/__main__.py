"""``python -m cyoloctl`` is the console script."""

import sys

from cyoloctl.cli import main

if __name__ == "__main__":
    sys.exit(main())
