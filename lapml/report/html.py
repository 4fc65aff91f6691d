"""What every page of this package is made with: templates that escape what they are given, and pictures inlined."""

import base64
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

TEMPLATES = Environment(
    loader=PackageLoader("lapml.report", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True
)


def render(template: str, **values: Any) -> str:
    """A template of this folder, filled in."""
    return TEMPLATES.get_template(template).render(**values)


def data_uri(image: bytes, kind: str) -> str:
    """A file as an address that holds it; kind: ``png``, ``jpeg`` or ``svg+xml``."""
    return f"data:image/{kind};base64,{base64.b64encode(image).decode()}"
