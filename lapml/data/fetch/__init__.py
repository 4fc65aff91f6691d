"""Fetch data: download, unpack or find them, lay them out as a reader expects, and record what they are."""

import re
from typing import Any


def shown(value: Any) -> Any:
    """A source without the names and passwords that URLs may hold; any other setting as it is."""
    if isinstance(value, list):
        return [shown(each) for each in value]
    return re.sub(r"//[^/?#]*@", "//", value, count=1) if isinstance(value, str) else value
