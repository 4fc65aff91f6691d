"""Tables of a report beside its main one: as Markdown in accuracy.md, and on the page."""

from collections.abc import Sequence
from itertools import zip_longest
from typing import NamedTuple

from lapml.common.text import markdown as escaped
from lapml.common.text import markdown_table


class Section(NamedTuple):
    """A table of a data set's methods."""

    dataset: str
    title: str
    heads: list[str]
    rows: list[list[str]]  # cells as plain text, the first of a row a name
    note: str
    bold: Sequence[bool] = ()  # of each row, whether its third cell is bold in Markdown
    label: str = ""  # in place of a long title


def markdown(sections: Sequence[Section]) -> str:
    """The tables, those of one kind in succession: a note that they share stands below the last of them."""
    lines = []
    for each, following in zip_longest(sections, sections[1:]):
        rows = [[escaped(name), *numbers] for name, *numbers in each.rows]
        for row in (row for row, bold in zip(rows, each.bold, strict=False) if bold):
            row[2] = f"**{row[2]}**"
        lines += [f"### {escaped(each.dataset)}: {each.title}", "", *markdown_table(each.heads, rows), ""]
        if following is None or following.note != each.note:
            lines += [each.note, ""]
    return "\n".join(lines)
