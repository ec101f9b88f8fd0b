"""``python -m cyoloctl`` is the console script; so is this file, for the processes that cyoloctl starts.

As a file it runs isolated (`process.child_command`), and the interpreter does not
know where the package is unless it is installed in its own directories.
"""

import sys

if not __package__:
    from os.path import abspath, dirname

    _root = dirname(dirname(abspath(__file__)))
    if _root not in sys.path:
        # Last: nothing in it takes the place of an installed module.
        sys.path.append(_root)

from cyoloctl.cli import main

if __name__ == "__main__":
    sys.exit(main())
