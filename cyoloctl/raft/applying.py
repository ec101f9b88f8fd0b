"""Applying the commands of a log entry: every node gives the same results, or the one that cannot stops."""

from __future__ import annotations

import logging

from cyoloctl.errors import InternalError, MachineMismatch, VersionMismatch
from cyoloctl.raft.batch import decode_batch, stamp_of
from cyoloctl.raft.machine import StateMachine

__all__ = ["apply_commands"]

_log = logging.getLogger("cyoloctl.raft")


def apply_commands(machine: StateMachine, index: int, command: bytes) -> list[bytes]:
    """The results of an entry's commands, once its time was applied (row 11: total).

    Raises VersionMismatch for what this release cannot apply, and InternalError
    where this node lacks memory or stack: then it must stop.
    """
    results = []
    stamp = stamp_of(command)
    if stamp is not None:
        machine.advance(stamp)
    for item, after in decode_batch(command):
        try:
            results.append(machine.apply(index, item, after))
        except MachineMismatch:
            raise  # another release would not help
        except VersionMismatch as error:
            # Answering would be an answer that the other nodes do not give.
            raise VersionMismatch(
                f"log entry {index} cannot be applied by this release ({error.message}): install "
                "the release that the other nodes run, then start this node again"
            ) from error
        except (MemoryError, RecursionError) as error:
            # It strikes this node and not the others: stop rather than differ from them.
            raise InternalError(
                f"applying entry {index} failed on this node ({type(error).__name__}): restart it"
            ) from error
        except Exception as error:  # the machine promised not to: a bug, alike on every node
            _log.critical(
                "the state machine raised",
                extra={"index": index, "error": type(error).__name__},
                exc_info=True,
            )
            results.append(b"")
    return results
