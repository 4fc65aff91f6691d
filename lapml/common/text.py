"""Names of classes, files and methods, shown as they are and never taken for markup.

HTML is escaped (lapml/report/html.py). CSV values are quoted where needed; names of methods begin with a letter or digit, so that
no spreadsheet takes one for a formula.
"""

import re
import unicodedata
from collections.abc import Iterable

JOINERS = "\u200c\u200d"  # invisible, but scripts and emoji need them
MARKDOWN = re.compile(r"[\\`*|<&~$\[]|(?<![^\W_])_|_(?![^\W_])")  # an underscore within a word is one
TEX = {"\\": r"\textbackslash{}", **{c: "\\" + c for c in "&%$#_{}"}, "~": r"\textasciitilde{}",
       "^": r"\textasciicircum{}", "|": r"\textbar{}", "`": r"\textasciigrave{}", '"': r"\textquotedbl{}",
       "±": r"$\pm$", "−": "$-$", "×": r"$\times$", "<": "$<$", ">": "$>$", "–": "--"}  # fmt: skip
AS_TYPED = {"text.parse_math": False}  # matplotlib: a $ is a dollar


def line(text: str) -> str:
    """One line that terminals, figures and pages can show: line breaks, control characters, marks that turn the direction of
    writing, and bytes that are no text are written out, as ``\\n``."""
    if text.isprintable():
        return text
    return "".join(each if _shown(each) else each.encode("unicode_escape").decode() for each in text)


def _shown(character: str) -> bool:
    return character.isprintable() or character in JOINERS or unicodedata.category(character) == "Zs"


def class_name(text: str) -> str:
    """A class as people write it: CUB's "001.Black_footed_Albatross" without number and underscores."""
    return line(re.sub(r"^\d+\.(?=[^\W\d])", "", text).replace("_", " "))


def shortened(text: str, length: int) -> str:
    """At most ``length`` characters."""
    return text if len(text) <= length else text[: length - 1] + "…"


def duration(seconds: float) -> str:
    """About how long something takes: 40 s, 12 min, 3.5 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def markdown(text: str) -> str:
    """In a table's cell, or within a line."""
    return MARKDOWN.sub(lambda found: f"\\{found[0]}", line(text))


def markdown_table(heads: list[str], rows: Iterable[list[str]]) -> list[str]:
    """The lines of a table of cells that are Markdown already: the first column is of names, the others of numbers."""
    return ["| " + " | ".join(cells) + " |" for cells in (heads, ["---", *["---:"] * (len(heads) - 1)], *rows)]


def tex(text: str) -> str:
    """In LaTeX's text."""
    return "".join(TEX.get(character, character) for character in line(text))
