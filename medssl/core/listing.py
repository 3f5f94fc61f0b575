"""The files of a source, and the ids that replace confidential names."""

from __future__ import annotations

import difflib
import hashlib
import hmac
import json
import os
import re
import secrets
import stat
import unicodedata
from pathlib import Path

from medssl.core.errors import StudyError
from medssl.core.files import write_text
from medssl.core.layout import PRIVATE


def load_key(path: str | None) -> bytes:
    """The key of the ids: the file that the study names, or one created at first use in the private folder (mode 0600).

    Raises:
        StudyError: the named file is missing or too short.
    """
    if path is not None:
        file = Path(path)
        key = file.read_bytes().strip() if file.is_file() else b""
        if len(key) < 16:
            raise StudyError(
                "id_key names a file that is missing or shorter than 16 bytes. Correct the path, or leave id_key out."
            )
        return key
    file = PRIVATE / "id_key"
    if not file.is_file():
        PRIVATE.mkdir(mode=0o700, exist_ok=True)
        write_text(file, secrets.token_hex(32) + "\n")
        file.chmod(0o600)
    return file.read_bytes().strip()


def minted(key: bytes, prefix: str, *names: str) -> str:
    """An id that replaces confidential names: `p-4f2a01b3c4d5`. A name is its bytes; where it ends counts."""
    marked = (name.replace("\x1e", "\x1e\x1e").replace("\x1f", "\x1e\x1f") for name in names)
    digest = hmac.digest(key, "\x1f".join(marked).encode("utf-8", "surrogateescape"), "sha256")
    return f"{prefix}-{digest.hex()[:12]}"


def one_spelling(name: str) -> str:
    r"""A name in one spelling, however its letters are encoded: bytes that are not UTF-8 are read as Latin-1, then composed
    (NFC).

    >>> one_spelling("Mu\u0308ller") == one_spelling("M\udcfcller") == "M\xfcller"
    True
    """
    if name.isascii():
        return name
    coded = name.encode("utf-8", "surrogateescape")
    try:
        text = coded.decode()
    except UnicodeDecodeError:
        text = coded.decode("latin-1")
    return unicodedata.normalize("NFC", text)


def minted_patient(key: bytes, name: str) -> str:
    """The id of a patient, the same for every encoding of the name."""
    return minted(key, "p", one_spelling(name))


def key_of(source: str, key: bytes) -> bytes:
    """The key of ids that come from file names: `slice_1.png` in two sources are two pictures.

    Series ids stated by DICOM, and patient ids, use `key` itself, so that they are equal in all sources.
    """
    return hmac.new(key, f"source\x1f{source}".encode(), hashlib.sha256).digest()


Listed = tuple[str, int, int, str]
"""Relative name, size in bytes, time of the last change in ns, kind: a word of `KINDS`."""
Stamped = tuple[Listed, int]
KINDS = ("file", "link", "special", "closed", "gone")
"""`closed`: a folder that the operating system would not list (its name ends with `/`); `gone`: it vanished during the listing.
"""


def spelled(name: str) -> str:
    r"""A name as text that every table and screen can hold; `unspelled` reverses it.

    A name is bytes; Python represents those that are not UTF-8 as surrogates. Surrogates, control characters and the backslash
    are written as Python escapes.

    >>> spelled("M\udcfcller/1.dcm"), unspelled(spelled("M\udcfcller/1.dcm")) == "M\udcfcller/1.dcm"
    ('M\\xfcller/1.dcm', True)
    """
    return name if name.isprintable() and "\\" not in name else "".join(map(_spelled, name))


def unspelled(text: str) -> str:
    """The name that `spelled` encoded."""
    return _ESCAPE.sub(_unspelled, text) if "\\" in text else text


_ESCAPE = re.compile(r"\\(\\|x[0-9a-f]{2}|u[0-9a-f]{4}|U[0-9a-f]{8})")


def _spelled(sign: str) -> str:
    number = ord(sign)
    if sign == "\\":
        return "\\\\"
    if sign.isprintable():
        return sign
    if number < 0x80 or 0xDC80 <= number <= 0xDCFF:
        return f"\\x{number & 0xFF:02x}"
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


def _unspelled(found: re.Match[str]) -> str:
    word = found[1]
    if word == "\\":
        return word
    number = int(word[1:], 16)
    return chr(number | 0xDC00 if word[0] == "x" and number >= 0x80 else number)


def read(path: Path | str) -> list[Listed]:
    """The rows of a private listing file."""
    with open(path, encoding="utf-8") as file:
        return [tuple(json.loads(line)) for line in file]


def beside(path: Path) -> str:
    """A hint at a similar name in the same folder, for a path that does not exist."""
    folder = Path(os.path.realpath(path)).parent
    try:
        similar = [name for name in sorted(os.listdir(folder)) if _similarity(Path(name).stem, path.stem) >= MIN_SIMILARITY]
    except OSError:
        return ""
    return f" Did you mean {spelled(max(similar, key=lambda name: _similarity(name, path.name)))!r}?" if similar else ""


MIN_SIMILARITY = 0.75
"""Names that are less similar than this, without common suffixes, are unrelated."""


def _similarity(one: str, other: str) -> float:
    """Similarity from 0 to 1."""
    return difflib.SequenceMatcher(None, one.casefold(), other.casefold()).ratio()


def nothing_at(path: str) -> str:
    """The sentence for a path that does not exist, with what was tried and any similar name."""
    return f"there is nothing at {path!r} (tried {spelled(os.path.realpath(path))}).{beside(Path(path))}"


def walk(source: str | None, path: str) -> list[Listed]:
    """Every entry below `path` as (relative name, size, mtime_ns, kind), sorted.

    Links are not followed. A single file lists as itself. What cannot be listed is an entry too, so that nothing is lost
    silently. `source` is the study's name for it; None outside a study.

    Raises:
        StudyError: nothing is there, or the folder itself cannot be listed.
    """
    return [row for row, _ in stamped(source, path)]


def stamped(source: str | None, path: str) -> list[Stamped]:
    """The rows of `walk`, each with the time in ns of the last change of content, name or rights, which users cannot set.

    Raises:
        StudyError: nothing is there, or the folder itself cannot be listed.
    """
    named = f"sources.{source}.path" if source else spelled(path)
    if not path:
        raise StudyError(f"{named or 'the path'} is empty. Name the folder of the images.")
    try:
        info = Path(path).stat()
        if stat.S_ISREG(info.st_mode):
            return [((Path(path).name, info.st_size, info.st_mtime_ns, "file"), info.st_ctime_ns)]
        if not stat.S_ISDIR(info.st_mode):
            raise StudyError(f"{named} is neither a folder nor a file. Name a folder of DICOM, NIfTI or images, or one file.")
        with os.scandir(path):
            pass
    except (FileNotFoundError, NotADirectoryError):
        raise StudyError(_nothing(source, named, path)) from None
    except OSError as error:
        raise StudyError(
            f"{named} cannot be opened ({error.strerror or error}; tried {spelled(os.path.realpath(path))}). "
            "Make it readable for the account that runs medssl."
        ) from None
    rows: list[Stamped] = []
    waiting = [""]
    while waiting:
        folder = waiting.pop()
        try:
            _list_folder(path, folder, rows, waiting)
        except FileNotFoundError:
            rows.append(((f"{folder or '.'}/", 0, 0, "gone"), 0))
        except OSError:
            rows.append(((f"{folder or '.'}/", 0, 0, "closed"), 0))
    if not rows:
        raise StudyError(f"{named} is an empty folder: there is nothing to read. Point it at DICOM, NIfTI or images.")
    return sorted(rows)


def _list_folder(root: str, folder: str, rows: list[Stamped], waiting: list[str]) -> None:
    """Add the entries of a folder to `rows` and its folders to `waiting`; entries listed before an error stay."""
    with os.scandir(Path(root) / folder) as entries:
        for entry in entries:
            name = f"{folder}/{entry.name}" if folder else entry.name
            try:
                info = entry.stat(follow_symlinks=False)
            except OSError:
                rows.append(((name, 0, 0, "gone"), 0))
                continue
            if stat.S_ISDIR(info.st_mode):
                waiting.append(name)
            else:
                kind = "file" if stat.S_ISREG(info.st_mode) else "link" if stat.S_ISLNK(info.st_mode) else "special"
                rows.append(((name, info.st_size, info.st_mtime_ns, kind), info.st_ctime_ns))


def _nothing(source: str | None, named: str, path: str) -> str:
    tried = spelled(os.path.realpath(path))
    if Path(path).is_symlink():
        return f"{named} is a symbolic link to nothing (tried {tried}). Name what it should lead to."
    hint = beside(Path(path))
    if source is None:
        return f"there is nothing at {named} (tried {tried}).{hint}"
    remedy = "Correct the path in the study file; it is relative to the folder in which medssl runs."
    return f"{named} does not exist (tried {tried}).{hint} {remedy}"
