"""User codes as people write them.  Apart from `codes`, for commands need no cryptography for them."""

from __future__ import annotations

from cyoloctl.errors import InvalidInput

__all__ = ["CODE_LETTERS", "USER_CODE_ALPHABET", "normalise_user_code", "shown_user_code"]

USER_CODE_ALPHABET = "BCDFGHJKLMNPQRSTVWXZ"  # RFC 8628 6.1: no vowels, so no words
CODE_LETTERS = 8
_MAX_TEXT = 64


def normalise_user_code(text: str) -> str:
    """The 8 letters of a user code in upper case, whatever its case, dashes and spaces.

    Mail programs and word processors make other dashes and spaces of ours, and put
    invisible characters between letters.  Raises InvalidInput, which does not repeat the text.
    """
    letters = "" if len(text) > _MAX_TEXT else "".join(c for c in text if not _separates(c))
    # ASCII before upper(), which makes ASCII of some other letters (U+017F becomes S).
    if len(letters) == CODE_LETTERS and letters.isascii():
        letters = letters.upper()
        if all(letter in USER_CODE_ALPHABET for letter in letters):
            return letters
    raise InvalidInput(
        f"the user code is not valid: use the {CODE_LETTERS} letters that were shown, such as WDJB-MJHT; "
        f"it has the letters {USER_CODE_ALPHABET} only"
    )


def _separates(character: str) -> bool:
    import unicodedata  # here: a node takes half a megabyte more with it, and hardly ever needs it

    # Unicode's spaces, dashes (those that mathematics and hyphenation know, too) and invisible formats.
    # The last is the minus sign, by its number: by its name Python would load unicodedata to compile it.
    return unicodedata.category(character) in ("Zs", "Pd", "Cf") or character == "\u2212"


def shown_user_code(text: str) -> str:
    """A user code as it is shown, however it is written.  Raises InvalidInput."""
    letters = normalise_user_code(text)
    return f"{letters[:4]}-{letters[4:]}"
