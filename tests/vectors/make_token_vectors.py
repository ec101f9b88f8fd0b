"""Test vectors of the session token, made by an implementation of its own.

    python tests/vectors/make_token_vectors.py [DIRECTORY]

Writes one JSON file a vector into DIRECTORY, by default ``token`` beside this file, and removes other
``*.json`` there.  Imports nothing of cyoloctl: HKDF is written out over ``hmac``, only AES-GCM is borrowed.
Deterministic: every salt and key is the SHA-256 of a label.

A vector is ``{"key_hex","key_id_hex","cluster_id","cookie_name","audience","now_unix_s","token","expect",
"claims"}``: a ring of one enabled key, the context, the time, and whether the token opens.  ``claims`` is the
whole payload of a token that opens, else null.  A file's name is ``ok-WHAT`` or ``reject-RULE-WHAT``; a
rejected token is wrong in that one point only.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import struct
import sys
from base64 import urlsafe_b64encode
from pathlib import Path

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

NOW = 1_800_000_000
CLUSTER = "0123456789abcdef0123456789abcdef"
SID = "AAECAwQFBgcICQoLDA0ODw"
BASE = {
    "abs": NOW + 28_800,
    "c": {"groups": ["operators"], "mfa": True},
    "exp": NOW + 900,
    "gen": 1,
    "iat": NOW,
    "sid": SID,
    "sub": "alice@example.com",
}
MAX_INTEGER = 2**53 - 1
END_OF_9999 = 253_402_300_799


def seeded(label: str, size: int) -> bytes:
    return hashlib.sha256(f"cyoloctl token vectors 1: {label}".encode()).digest()[:size]


KEY = seeded("key", 32)
KEY_ID = b"\xfc" + seeded("key id", 3)


def pae(*parts: bytes) -> bytes:
    return struct.pack(">I", len(parts)) + b"".join(struct.pack(">I", len(part)) + part for part in parts)


def hkdf(ikm: bytes, salt: bytes, info: bytes, size: int) -> bytes:
    """RFC 5869 with SHA-256."""
    prk = hmac.new(salt, ikm, hashlib.sha256).digest()
    okm = block = b""
    counter = 0
    while len(okm) < size:
        counter += 1
        block = hmac.new(prk, block + info + bytes([counter]), hashlib.sha256).digest()
        okm += block
    return okm[:size]


def canonical(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))


def base64url(data: bytes) -> str:
    return urlsafe_b64encode(data).decode().rstrip("=")


def token_bytes(
    payload: object,
    *,
    cluster: str = CLUSTER,
    cookie: str = "cyolo-sid",
    audience: str = "",
    key: bytes = KEY,
    header: bytes = b"\x54\x01" + KEY_ID,
    label: str = "salt",
    associated: bool = True,
    commitment: bytes | None = None,
    nonce: bytes | None = None,
) -> bytes:
    """A token as bytes; payload is an object, or its bytes as they shall be."""
    plain = payload if isinstance(payload, bytes) else canonical(payload).encode()
    salt = seeded(label, 24)
    context = pae(cluster.encode(), cookie.encode(), audience.encode())
    okm = hkdf(key, salt, pae(b"cyoloctl token v1", header, context), 76)
    front = header + salt + (commitment or okm[44:76])
    return front + AESGCM(okm[:32]).encrypt(nonce or okm[32:44], plain, front if associated else b"")


def with_claims(claims: object, **fields: object) -> dict[str, object]:
    return {**BASE, "c": claims, **fields}


def changed(data: bytes, offset: int, bits: int = 1) -> bytes:
    """The bytes with bits of one flipped."""
    altered = bytearray(data)
    altered[offset] ^= bits
    return bytes(altered)


def nested(levels: int) -> object:
    """Claims that nest so deep, their own object counted."""
    value: object = 1
    for level in range(levels):
        value = {"n": value} if level % 2 or level == levels - 1 else [value]
    return value


def containing(*characters: str) -> str:
    """A good token whose text has all of these characters, in its middle."""
    for attempt in range(10_000):
        text = base64url(token_bytes(BASE, label=f"search {attempt}"))
        if all(character in text[10:-10] for character in characters):
            return text
    raise AssertionError(characters)


def of_length(rest: int) -> str:
    """A good token whose text has a length of ``rest`` modulo 4."""
    for size in range(1, 5):
        text = base64url(token_bytes(with_claims({"p": "x" * size})))
        if len(text) % 4 == rest:
            return text
    raise AssertionError(rest)


ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


def with_trailing_bit(text: str) -> str:
    return text[:-1] + ALPHABET[ALPHABET.index(text[-1]) + 1]


def vectors() -> dict[str, dict[str, object]]:
    """Every vector by its name.

    More than 60 lines, because it is the table of the vectors: each differs from a good token in one thing.
    """
    found: dict[str, dict[str, object]] = {}

    def add(
        name: str,
        token: bytes | str,
        claims: object = None,
        *,
        now: int = NOW,
        cluster: str = CLUSTER,
        cookie: str = "cyolo-sid",
        audience: str = "",
        key: bytes = KEY,
        key_id: bytes = KEY_ID,
    ) -> None:
        assert name not in found, name
        found[name] = {
            "key_hex": key.hex(),
            "key_id_hex": key_id.hex(),
            "cluster_id": cluster,
            "cookie_name": cookie,
            "audience": audience,
            "now_unix_s": now,
            "token": token if isinstance(token, str) else base64url(token),
            "expect": "ok" if name.startswith("ok-") else "reject",
            "claims": claims,
        }

    def ok(name: str, payload: object, *, now: int = NOW, **context: str) -> None:
        add(f"ok-{name}", token_bytes(payload, label=name, **context), payload, now=now, **context)

    def reject(name: str, payload: object, *, now: int = NOW) -> None:
        """A token that is authentic, with a payload that no one should take."""
        add(f"reject-{name}", token_bytes(payload, label=name), now=now)

    good = base64url(token_bytes(BASE))

    # Contexts.
    ok("plain", BASE)
    ok("audience", BASE, audience="gateway-1.example.com")
    ok("audience-unicode", BASE, audience="Gateway Köln 東京")
    ok("audience-255-bytes", BASE, audience="a" * 255)
    ok("cookie-host-prefix", BASE, cookie="__Host-sid")
    ok("cookie-every-symbol", BASE, cookie="!#$%&'*+-.^_`|~09AZaz")
    ok("cluster-one-character", BASE, cluster="x")
    ok("cluster-unicode", BASE, cluster="Köln")
    ok("boundary-left", BASE, cluster="ab", cookie="c")
    ok("boundary-right", BASE, cluster="a", cookie="bc")

    # Payloads.
    ok("claims-none", with_claims({}))
    ok(
        "claims-types",
        with_claims({"false": False, "list": [], "null": None, "object": {}, "text": "", "true": True}),
    )
    ok("claims-integers", with_claims({"high": MAX_INTEGER, "low": -MAX_INTEGER, "zero": 0}))
    escapes = "".join(map(chr, range(0x20))) + '"\\/<>&\x7f\x80\u2028\u2029'
    ok("claims-escapes", with_claims({escapes: escapes}))
    # UTF-16 has these the other way round: the order is that of code points, as that of UTF-8 bytes.
    ok("claims-order-by-code-point", with_claims({"": 0, "a": 1, "\uffee": 2, "\U0001f600": 3}))
    ok("claims-unicode-not-normalised", with_claims({"name": "jose\u0301"}))
    ok("claims-nested-16-with-the-payload", with_claims(nested(15)))
    ok("claims-brackets-in-text", with_claims({'[{["\\': "[{" * 40 + '\\"[' * 20}))
    ok("claims-many-brackets", with_claims({"rows": [[] for _ in range(40)]}))
    ok("subject-one-character", {**BASE, "sub": "x"})
    ok("subject-256-bytes", {**BASE, "sub": "é" * 128})
    ok("subject-unicode", {**BASE, "sub": "josé@例え.jp"})
    ok("subject-emoji", {**BASE, "sub": "\U0001f642"})
    ok("generation-highest", {**BASE, "gen": MAX_INTEGER})

    # Sizes: every length modulo 4 that base64 has, the shortest payload, the longest text.
    for rest in (0, 2, 3):
        text = of_length(rest)
        size = next(n for n in range(1, 5) if base64url(token_bytes(with_claims({"p": "x" * n}))) == text)
        add(f"ok-length-{rest}-modulo-4", text, with_claims({"p": "x" * size}))
    shortest = {**BASE, "abs": 1, "c": {}, "exp": 0, "iat": 0, "sub": "x"}
    ok("shortest", shortest, now=0)
    room = 2850 - 78 - len(canonical(with_claims({"p": ""})))
    ok("longest-3800-characters", with_claims({"p": "x" * room}))
    add("reject-length-3802-characters", token_bytes(with_claims({"p": "x" * (room + 1)})))

    # Times.
    ok("time-issued-60-s-ahead", {**BASE, "iat": NOW + 60})
    ok("time-expired-60-s-ago", BASE, now=NOW + 960)
    ok("time-last-second", {**BASE, "exp": NOW + 28_800}, now=NOW + 28_799)
    ok("time-issued-and-expired-at-once", {**BASE, "exp": NOW})
    ok("time-end-of-9999", {**BASE, "abs": END_OF_9999, "exp": END_OF_9999})
    reject("future-issued-61-s-ahead", {**BASE, "iat": NOW + 61})
    reject("expired-61-s-ago", BASE, now=NOW + 961)
    reject("ended-at-abs", {**BASE, "exp": NOW + 28_800}, now=NOW + 28_800)
    reject("ended-past-abs", {**BASE, "exp": NOW + 28_800}, now=NOW + 28_801)

    # Spelling of the text.
    some = containing("-", "_", "A", "a")
    add("reject-alphabet-plus", some.replace("-", "+", 1))
    add("reject-alphabet-slash", some.replace("_", "/", 1))
    add("reject-alphabet-padding-1", of_length(3) + "=")
    add("reject-alphabet-padding-2", of_length(2) + "==")
    add("reject-alphabet-padding-4", of_length(0) + "====")
    add("reject-alphabet-space-before", " " + good)
    add("reject-alphabet-space-inside", good[:100] + " " + good[100:])
    add("reject-alphabet-space-after", good + " ")
    add("reject-alphabet-newline", good + "\n")
    add("reject-alphabet-carriage-return", good + "\r\n")
    add("reject-alphabet-tab", "\t" + good)
    add("reject-alphabet-nul-after", good + "\0")
    add("reject-alphabet-nul-inside", good[:100] + "\0" + good[101:])
    add("reject-alphabet-cyrillic", some.replace("a", "а", 1))  # noqa: RUF001  # U+0430
    add("reject-alphabet-fullwidth", some.replace("A", "Ａ", 1))  # noqa: RUF001  # U+FF21
    add("reject-alphabet-byte-order-mark", "\ufeff" + good)
    add("reject-alphabet-percent-encoded", some.replace("-", "%2D", 1))
    add("reject-alphabet-quoted", f'"{good}"')
    add("reject-alphabet-dot", good[:100] + "." + good[101:])
    add("reject-base64-length-1-modulo-4", of_length(0) + "A")
    add("reject-trailing-bits-4", with_trailing_bit(of_length(2)))
    add("reject-trailing-bits-2", with_trailing_bit(of_length(3)))
    add("reject-short-empty", "")
    add("reject-short-header-only", token_bytes(BASE)[:6])
    add("reject-short-77-bytes", token_bytes(b"")[:77])

    # Version and key.
    for name, first in (("0", b"\x54\x00"), ("2", b"\x54\x02"), ("other-magic", b"\x74\x01")):
        add(f"reject-version-{name}", token_bytes(BASE, header=first + KEY_ID))
    other_id = b"\xfc" + seeded("other key id", 3)
    add("reject-key-unknown", token_bytes(BASE, header=b"\x54\x01" + other_id))
    add("reject-key-without-fc", token_bytes(BASE, header=b"\x54\x01\xfb" + KEY_ID[1:]))

    # Derivation.
    other = seeded("other key", 32)
    add("reject-commitment-other-secret", token_bytes(BASE, key=other))
    data = token_bytes(BASE)
    add("reject-commitment-swapped-key-id", data[:2] + other_id + data[6:], key=other, key_id=other_id)
    add("reject-commitment-other-cluster", token_bytes(BASE, cluster="f" * 32))
    add("reject-commitment-other-cookie", token_bytes(BASE, cookie="cyolo-sie"))
    add("reject-commitment-cookie-case", token_bytes(BASE, cookie="Cyolo-Sid"))
    add("reject-commitment-other-audience", token_bytes(BASE, audience="gateway-1"), audience="gateway-2")
    add("reject-commitment-audience-left-out", token_bytes(BASE, audience="gateway-1"))
    add("reject-commitment-audience-added", token_bytes(BASE), audience="gateway-1")
    add(
        "reject-commitment-boundary-cluster-cookie",
        token_bytes(BASE, cluster="ab", cookie="c"),
        cluster="a",
        cookie="bc",
    )
    add(
        "reject-commitment-boundary-cookie-audience",
        token_bytes(BASE, cookie="ab", audience="c"),
        cookie="a",
        audience="bc",
    )
    add("reject-commitment-salt-altered", changed(token_bytes(BASE), 6))
    add("reject-commitment-first-bit", changed(token_bytes(BASE), 30, 0x80))
    add("reject-commitment-last-bit", changed(token_bytes(BASE), 61))
    add("reject-commitment-zero", token_bytes(BASE, commitment=bytes(32)))
    add("reject-tag-ciphertext-altered", changed(token_bytes(BASE), 62))
    add("reject-tag-altered", changed(token_bytes(BASE), -1))
    add("reject-tag-truncated", token_bytes(BASE)[:-1])
    add("reject-tag-byte-appended", token_bytes(BASE) + b"\0")
    add("reject-tag-no-associated-data", token_bytes(BASE, associated=False))
    add("reject-tag-zero-nonce", token_bytes(BASE, nonce=bytes(12)))

    # Authentic payloads that are not canonical JSON of the right form.
    text = canonical(BASE)

    def spelled(old: str, new: str) -> bytes:
        assert text.count(old) == 1, old
        return text.replace(old, new).encode("utf-8", "surrogatepass")

    reject("json-empty", b"")
    reject("json-not", b"sub=alice")
    reject("json-cut", text[:-1].encode())
    reject("json-not-utf-8", spelled("alice", "al\udc80ice").replace(b"\xed\xb2\x80", b"\xff"))
    reject("json-utf-8-surrogate", spelled("alice", "al\ud800ice"))
    reject("json-utf-8-overlong", spelled("alice", "\0lice").replace(b"\0", b"\xc1\xa1"))
    reject("json-utf-16", text.encode("utf-16-le"))
    reject("json-byte-order-mark", b"\xef\xbb\xbf" + text.encode())
    reject("json-nan", spelled('"mfa":true', '"mfa":NaN'))
    reject("json-infinity", spelled('"mfa":true', '"mfa":Infinity'))
    reject("json-minus-infinity", spelled('"mfa":true', '"mfa":-Infinity'))
    reject("json-claim-is-a-fraction", spelled('"mfa":true', '"mfa":0.5'))
    reject("json-claim-past-2-53", spelled('"mfa":true', f'"mfa":{MAX_INTEGER + 1}'))
    reject("json-claim-below-minus-2-53", spelled('"mfa":true', f'"mfa":-{MAX_INTEGER + 1}'))
    reject("json-claim-of-2000-digits", spelled('"mfa":true', f'"mfa":{"1" * 2000}'))
    reject("json-generation-fraction", spelled('"gen":1', '"gen":1.0'))
    reject("json-generation-exponent", spelled('"gen":1', '"gen":1e0'))
    reject("json-leading-zero", spelled('"gen":1', '"gen":01'))
    reject("json-control-character", spelled("alice", "ali\nce"))
    reject("spelling-duplicate-field", spelled('"gen":1', '"gen":1,"gen":1'))
    reject("spelling-duplicate-claim", spelled('"mfa":true', '"mfa":false,"mfa":true'))
    reject("spelling-unsorted-fields", spelled('"gen":1,"iat":1800000000', '"iat":1800000000,"gen":1'))
    reject(
        "spelling-unsorted-claims",
        spelled('"groups":["operators"],"mfa":true', '"mfa":true,"groups":["operators"]'),
    )
    reject("spelling-space", spelled('"gen":1', '"gen": 1'))
    reject("json-space-before", b" " + text.encode())
    reject("spelling-newline-after", text.encode() + b"\n")
    reject("spelling-second-value", text.encode() + b"{}")
    reject("spelling-nul-after", text.encode() + b"\0")
    reject("spelling-minus-zero", spelled('"mfa":true', '"mfa":-0'))
    reject("spelling-needless-escape", spelled("alice", "\\u0061lice"))
    reject("spelling-escaped-slash", spelled("operators", "oper\\/ators"))
    reject("spelling-escaped-unicode", spelled("alice", "jos\\u00e9"))
    reject("spelling-surrogate-escape", spelled("alice", "al\\ud800ice"))
    reject("depth-17-with-the-payload", with_claims(nested(16)))
    reject("depth-1000", spelled('"mfa":true', '"mfa":' + "[" * 1000 + "]" * 1000))
    for name, value in (
        ("array", [BASE]),
        ("string", "x"),
        ("null", None),
        ("number", 1),
        ("object-empty", {}),
    ):
        reject(f"fields-{name}", value)
    for field in BASE:
        reject(f"fields-without-{field}", {name: value for name, value in BASE.items() if name != field})
    reject("fields-with-another", {**BASE, "admin": True})
    reject(
        "fields-other-case", {**{name: value for name, value in BASE.items() if name != "sub"}, "Sub": "x"}
    )

    # Authentic fields with wrong values.
    for field in ("gen", "iat", "exp", "abs"):
        reject(f"integers-{field}-boolean", {**BASE, field: True})
        reject(f"integers-{field}-text", {**BASE, field: str(BASE[field])})
        reject(f"integers-{field}-null", {**BASE, field: None})
    reject("generation-zero", {**BASE, "gen": 0})
    reject("generation-negative", {**BASE, "gen": -1})
    reject("order-issued-before-1970", {**BASE, "iat": -1})
    reject("order-issued-after-expiry", {**BASE, "exp": NOW - 1})
    reject("order-expires-after-abs", {**BASE, "exp": NOW + 28_801})
    reject("order-past-9999", {**BASE, "abs": END_OF_9999 + 1})
    reject("sid-15-bytes", {**BASE, "sid": base64url(bytes(range(15)))})
    reject("sid-17-bytes", {**BASE, "sid": base64url(bytes(range(17)))})
    reject("sid-padded", {**BASE, "sid": SID + "=="})
    reject("sid-trailing-bits", {**BASE, "sid": SID[:-1] + "x"})
    reject("sid-newline", {**BASE, "sid": SID + "\n"})
    reject("sid-number", {**BASE, "sid": 1})
    reject("sub-empty", {**BASE, "sub": ""})
    reject("sub-number", {**BASE, "sub": 1})
    reject("sub-null", {**BASE, "sub": None})
    reject("sub-not-nfc", {**BASE, "sub": "jose\u0301"})
    reject("sub-angstrom-sign", {**BASE, "sub": "\u212b"})
    reject("sub-257-bytes", {**BASE, "sub": "x" * 257})
    reject("sub-258-bytes-in-129-characters", {**BASE, "sub": "é" * 129})
    reject("claims-array", with_claims([]))
    reject("claims-null", with_claims(None))
    reject("claims-string", with_claims("mfa"))
    return found


def main() -> None:
    directory = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "token"
    directory.mkdir(parents=True, exist_ok=True)
    for path in directory.glob("*.json"):
        path.unlink()
    for name, vector in vectors().items():
        # ASCII only: what cannot be seen, such as U+0430, cannot hide in a review.
        (directory / f"{name}.json").write_text(json.dumps(vector, indent=1) + "\n", encoding="ascii")


if __name__ == "__main__":
    main()
