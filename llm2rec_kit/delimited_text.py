"""Text files by their lines. A line ends at a line feed alone: other characters that Python or an editor ends lines at (form
feed, NEL, U+2028, ...) stand inside scraped titles, and a line too many shifts every row after it."""

from __future__ import annotations

import codecs
from pathlib import Path

WIDE = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)  # UTF-32's begin like them


def lines(file: Path) -> list[str]:
    """The lines of a UTF-8 file, without their ends (a line feed, or a carriage return and one) and the byte-order mark.

    A last line without an end counts. Raises ValueError where the text is not UTF-8, naming the line and what it may be.
    """
    data = file.read_bytes()
    if data.startswith(WIDE):
        raise ValueError(f"{file} is UTF-16, and UTF-8 is expected. Save it as UTF-8: iconv -f UTF-16 -t UTF-8.")
    data = data.removeprefix(codecs.BOM_UTF8)
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"{file} is not UTF-8: byte 0x{data[error.start]:02x} in line {line}. It may be Latin-1 or Windows-1252; save it as "
            "UTF-8: iconv -f WINDOWS-1252 -t UTF-8."
        ) from None
    if (line := text.find("\0")) >= 0:
        where = text.count("\n", 0, line) + 1
        raise ValueError(f"{file}, line {where}: a zero byte, so this is no UTF-8 text (UTF-16 without its mark, perhaps).")
    if "\r" in text.rstrip("\r") and "\n" not in text:
        raise ValueError(f"{file} ends its lines with carriage returns alone; expected are line feeds. Save it with those.")
    found = text.split("\n")
    if not found[-1]:
        found.pop()
    return [line.removesuffix("\r") for line in found]
