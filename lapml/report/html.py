"""What every page of this package is made with: templates that escape what they are given, and pictures inlined."""

import base64
import re
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

TEMPLATES = Environment(
    loader=PackageLoader("lapml.report", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True
)
IMAGES = re.compile(r'<meta name="lapml-images" content="(none|data)">')


def render(template: str, **values: Any) -> str:
    """A template of this folder, filled in."""
    return TEMPLATES.get_template(template).render(**values)


def data_uri(image: bytes, kind: str) -> str:
    """A file as an address that holds it; kind: ``png``, ``jpeg`` or ``svg+xml``."""
    return f"data:image/{kind};base64,{base64.b64encode(image).decode()}"


def shows_pictures(page: Path) -> bool | None:
    """Whether a page says that it shows pictures of the data; None where it says nothing of it."""
    found = IMAGES.search(page.read_text(encoding="utf-8"))
    return None if found is None else found.group(1) == "data"
