"""Templates with escaping, and inlined pictures, for all pages."""

import base64
import re
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from lapml.config import Params, digest

TEMPLATES = Environment(
    loader=PackageLoader("lapml.report", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True
)
HERE_ONLY = re.compile(r"<!-- here only -->.*?<!-- end -->", re.DOTALL)  # of a page: what is not published
IMAGES = re.compile(r'<meta name="lapml-images" content="(none|data)">')
SETTINGS = re.compile(r'<meta name="lapml-report" content="(\w+)">')


def render(template: str, **values: Any) -> str:
    """Render a template of this folder."""
    return TEMPLATES.get_template(template).render(**values)


def data_uri(file: bytes, kind: str, family: str = "image") -> str:
    """A file as a data URI; kind: ``png``, ``jpeg`` or ``svg+xml``, of another family ``csv``, say."""
    return f"data:{family}/{kind};base64,{base64.b64encode(file).decode()}"


def shows_pictures(page: Path) -> bool | None:
    """Whether a page says that it shows pictures of the data; None if it does not say."""
    found = IMAGES.search(page.read_text(encoding="utf-8"))
    return None if found is None else found.group(1) == "data"


def settings_digest(params: Params) -> str:
    """A digest of section ``report``, which a report's page carries; but for ``images``, of which the page says what it shows."""
    return digest(params.report.model_dump(mode="json", exclude={"images"}))


def is_of_settings(page: Path, params: Params) -> bool:
    """Whether a report's page says that it was made with this section ``report``."""
    found = SETTINGS.search(page.read_text(encoding="utf-8"))
    return found is not None and found.group(1) == settings_digest(params)


def as_published(page: str) -> str:
    """A report's page as it stands beside its published files: without links to what is not published."""
    return HERE_ONLY.sub("", page).replace('href="../diagnosis/', 'href="diagnosis/')
