"""Names from data made safe for file systems and for people: an organism may be called anything."""

import re
import unicodedata
from hashlib import sha256

LONGEST = 120
"""Bytes of a file's name, with room left for a suffix (file systems take 255)."""

RESERVED = re.compile(r"(?i:con|prn|aux|nul|com[0-9]|lpt[0-9])(?=\.|\Z)")
"""Names that Windows keeps for devices."""

ESCAPED = re.compile(
    r"^\.|[. ]\Z|^ "  # hidden files, and what Windows drops
    r"|(?<=[-/])-|-(?=[-/])"  # a hyphen beside a slash or a hyphen: two hyphens stand for a slash
    r"|[^A-Za-z0-9._ ()@+=,/-]",
)


def file_name(name: str) -> str:
    """A name as one part of a path: no two names give the same one, and none leaves its folder.

    Letters, digits and `._ ()@+=,-` stay, a slash becomes two hyphens (`meta-llama--Llama-3.2-1B`), everything else
    tildes and the UTF-8 bytes (Inspect takes percent signs in the folders of logs for a URL's); long names are cut and
    end in a hash. Names that differ in case alone differ here too, which a file system that ignores case undoes.
    """
    safe = ESCAPED.sub(lambda match: _bytes(match[0]), name).replace("/", "--")
    if RESERVED.match(safe):
        safe = _bytes(safe[0]) + safe[1:]
    if len(safe) > LONGEST:
        digest = sha256(name.encode(errors="surrogatepass")).hexdigest()[:32]
        safe = f"{safe[: LONGEST - 34]}~-{digest}"
    return safe or "~-"


def _bytes(text: str) -> str:
    return "".join(f"~{byte:02X}" for byte in text.encode(errors="surrogatepass"))


FOLDERS = re.compile(r"(?:(?<=[\s(])|^)(?:~|/|[A-Za-z]:[\\/])[^()\n]*[/\\]")
"""The folders of an absolute path, within a name too (`organism (/home/me/base bf16)`)."""


def without_folders(name: str) -> str:
    """A name without the folders of this machine: a base in `/home/me/models/mine` is `mine` and a hash of the rest.

    Two paths never become one name. Anything that is no absolute path stays as it is.
    """
    match = FOLDERS.search(name)
    if match is None:
        return name
    digest = sha256(match[0].encode(errors="surrogatepass")).hexdigest()[:6]
    return f"{name[: match.start()]}{name[match.end() :]} [{digest}]"


def printable(text: str) -> str:
    r"""A text as a terminal or an SVG file may have it: what controls or reorders is shown as `\x1b`, `\u202e`.

    Newlines, tabs and the joiners that scripts and emoji need stay.
    """
    if text.isascii() and text.isprintable():
        return text
    return text.translate(_SHOWN)


class _Shown(dict[int, str]):
    """What each character is shown as, found out when it is first met."""

    def __missing__(self, code: int) -> str:
        self[code] = chr(code) if _harmless(chr(code)) else _escape(chr(code))
        return self[code]


_SHOWN = _Shown()


def _harmless(character: str) -> bool:
    return character in "\n\t\u200c\u200d" or unicodedata.category(character) not in (
        "Cc",
        "Cf",
        "Cs",
        "Co",
        "Cn",
        "Zl",
        "Zp",
    )


def _escape(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
