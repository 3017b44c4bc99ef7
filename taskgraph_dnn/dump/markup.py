"""Colours and frames of pictures and pages."""

import re
from collections.abc import Mapping
from html import escape
from importlib.resources import files

#: What the boxes of each kind of node are filled with, on white paper.
FILLS = {"layer": "#d9e8f8", "merged": "#ece3f8", "input": "#e3f5e9", "output": "#fdeed3"}

#: What XML 1.0 cannot hold, not even as an entity; and that together with what has to be escaped.
_FORBIDDEN = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_SPECIAL = re.compile(f"[<>&\"']|{_FORBIDDEN.pattern}")


def xml_text(value: object) -> str:
    """Return a value as text or an attribute of XML; characters that XML cannot hold become U+FFFD."""
    text = str(value)
    return escape(_FORBIDDEN.sub("\ufffd", text)) if _SPECIAL.search(text) else text


def filled_page(package: str, parts: Mapping[str, str]) -> str:
    """Return the page.html of a package, with a part in each place that is marked with two braces and its name."""
    page = files(package).joinpath("page.html").read_text(encoding="utf-8")
    return re.sub(r"\{\{ (\S+) \}\}", lambda place: parts[place[1]], page)
