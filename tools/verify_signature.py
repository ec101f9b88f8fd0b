"""Check a signature of a bundle where there is no `openssl`, by the libcrypto that Python itself uses.

``python3 verify-signature.py KEY SIGNATURE FILE``, with nothing but the standard library of Python 3.11:
0 if KEY, the public half of an Ed25519 key in PEM, signed FILE; 1 if it did not; 2 if one of them cannot be
used; 3 if this Python comes without libcrypto.  It is in every bundle, and `install.sh` runs it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import ctypes

__all__ = ["main"]

_NAMES = ("libcrypto.so.3", "libcrypto.so.1.1")
_RIGHT, _WRONG, _UNUSABLE, _NO_LIBRARY = 0, 1, 2, 3


def _library() -> ctypes.CDLL | None:
    with suppress(ImportError):
        # Loads the one that Python brings, wherever that is: it is found by its name from then on.
        import _hashlib  # noqa: F401
    with suppress(ImportError):  # a Python may be built without this module
        import ctypes

        for name in _NAMES:
            with suppress(OSError):
                return ctypes.CDLL(name)
    return None


def _verified(library: ctypes.CDLL, key: bytes, signature: bytes, text: bytes) -> bool:
    """Raises ValueError for a key that is none."""
    import ctypes

    pointer, size = ctypes.c_void_p, ctypes.c_size_t
    for name in ("BIO_new_mem_buf", "PEM_read_bio_PUBKEY", "EVP_MD_CTX_new"):
        getattr(library, name).restype = pointer
    source = pointer(library.BIO_new_mem_buf(key, len(key)))
    # The empty passphrase is there so that none is asked for.
    public = pointer(library.PEM_read_bio_PUBKEY(source, None, None, b""))
    if public.value is None:
        raise ValueError
    context = pointer(library.EVP_MD_CTX_new())
    if library.EVP_DigestVerifyInit(context, None, None, None, public) != 1:
        raise ValueError
    # Less than 0 is an error: only 1 is a signature that is right.
    done: int = library.EVP_DigestVerify(context, signature, size(len(signature)), text, size(len(text)))
    return done == 1


def main(arguments: Sequence[str]) -> int:
    """Check one file; returns the exit status, and says on stderr why it is not 0."""
    if len(arguments) != 3:
        sys.stderr.write("usage: python3 verify-signature.py KEY SIGNATURE FILE\n")
        return _UNUSABLE
    library = _library()
    if library is None:
        sys.stderr.write("error: this Python comes without libcrypto: use openssl\n")
        return _NO_LIBRARY
    try:
        key, signature, text = (Path(each).read_bytes() for each in arguments)
        right = _verified(library, key, signature, text)
    except OSError as error:
        sys.stderr.write(f"error: cannot read {error.filename}: {error.strerror}\n")
        return _UNUSABLE
    except ValueError:
        sys.stderr.write(f"error: {arguments[0]} holds no public key in PEM\n")
        return _UNUSABLE
    if not right:
        sys.stderr.write(f"error: {arguments[2]} was not signed by that key\n")
        return _WRONG
    sys.stdout.write("the signature is right\n")
    return _RIGHT


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
