"""The boundary of a command: every way in which one can end becomes an exit status and a message.

The statuses themselves are in errors.py, one for each class of error.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence

from cyoloctl.cli.modules import PROGRAM
from cyoloctl.errors import (
    ConfigError,
    CyoloctlError,
    InternalError,
    Interrupted,
    StorageError,
    UsageError,
)
from cyoloctl.paths import STORAGE_ERRNOS, file_error
from cyoloctl.process import interrupt_on_termination, open_standard_streams

__all__ = ["main"]


def _internal_error(error: BaseException) -> InternalError:
    known = "; ".join(getattr(error, "__notes__", ())) or "nothing more is known about what was done"
    return InternalError(
        f"internal error: {type(error).__name__}: {error}; {known}. "
        f"This is a bug: please report this text, the command and `{PROGRAM} --version` "
        "(CYOLOCTL_DEBUG=1 shows the traceback to add)"
    )


def _lost_text(error: Exception) -> StorageError:
    return StorageError(f"the command was carried out, but {error}")


def _system_error(error: OSError) -> CyoloctlError:
    """The error of the tree for one of the operating system that no command has words for."""
    if error.filename is not None:
        found = file_error(os.fsdecode(error.filename), error, "use")
        return type(found)("; ".join([found.message, *getattr(error, "__notes__", ())]))
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return ConfigError("too many open files: raise the limit (`ulimit -n 1024`), then repeat the command")
    if error.errno in STORAGE_ERRNOS:
        from cyoloctl.cli import output

        # Files have a name by now; what has none is typer's help on its way to stdout.
        return _lost_text(output.stdout_failed(error))
    return _internal_error(error)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status (`help exit-codes`).

    arguments: without the program's name; default sys.argv.  Never raises: an
    error of the tree in errors.py gives its exit status, anything else 70.
    """
    if arguments is None:
        open_standard_streams()
        interrupt_on_termination()
    argv = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return _run(argv)
    except KeyboardInterrupt:
        # Between the commands' own handling and here, for example during an import.
        return Interrupted.exit_status


def _carry_out(argv: list[str]) -> int:
    """Run the command of a line, read without typer where it is plain."""
    from cyoloctl.cli import plain

    found = plain.command_of(argv)
    if found is not None:
        leaf, values = found
        return leaf(**values) or 0
    from cyoloctl.cli import tree

    return tree.run(argv)


def _run(argv: list[str]) -> int:
    from cyoloctl.cli import output

    hint = ""
    failure: CyoloctlError
    try:
        result = _carry_out(argv)
        output.flush()
        if result != Interrupted.exit_status:
            return result
        failure = Interrupted("interrupted")
    except output.OutputClosed:
        # The reader of stdout went away (`| head`): the command is done, and nobody reads on.
        return 0
    except output.OutputFailed as error:  # of a text that no command of ours wrote, such as a help text
        failure = _lost_text(error)
    except CyoloctlError as error:
        failure = error
        if isinstance(error, UsageError):
            hint = error.hint
    except KeyboardInterrupt:
        failure = Interrupted("interrupted")
    except SystemExit as stop:
        # typer leaves this way only when its own help text met a closed pipe.
        output.abandon_stdout()
        return 0 if stop.code == 1 else int(stop.code or 0)
    except Exception as error:
        failure = _system_error(error) if isinstance(error, OSError) else _internal_error(error)
        if os.environ.get("CYOLOCTL_DEBUG") == "1":
            import traceback

            hint = "".join(traceback.format_exception(error)).rstrip()
    output.write_error(failure, argv, hint)
    return failure.exit_status
