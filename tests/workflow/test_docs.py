"""README and docs: every link leads somewhere, and so does every file that only history holds."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
EXPERIMENTS = (ROOT / "docs/experiments.md").read_text()
IN_HISTORY = sorted(set(re.findall(r"git show ([0-9a-f]{7}:[\w./-]+)", EXPERIMENTS)))


def prose(page: Path) -> str:
    """A page without its blocks of code."""
    return re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S)


def anchors(page: Path) -> set[str]:
    """What GitHub makes of the headings: lower case, hyphens for spaces, other punctuation left out."""
    headings = re.findall(r"^#+ (.*)$", prose(page), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"https?:|mailto:", link):
            continue
        file, _, heading = link.partition("#")
        target = page.parent / file if file else page
        assert target.exists(), f"{page.name}: {link}: there is no such file"
        assert not heading or heading in anchors(target), f"{page.name}: {link}: there is no such heading"


def in_history(name: str) -> str:
    """A file as a commit holds it; skips where the history is not there (an archive, a shallow clone)."""
    commit = name.partition(":")[0]
    there = ["git", "cat-file", "-e", f"{commit}^{{commit}}"]
    if not shutil.which("git") or subprocess.run(there, cwd=ROOT, capture_output=True).returncode:
        pytest.skip(f"commit {commit} is not in this checkout's history")
    return subprocess.run(["git", "show", name], cwd=ROOT, check=True, capture_output=True, encoding="utf-8").stdout


@pytest.mark.parametrize("name", IN_HISTORY)
def test_experiments_name_files_that_history_has(name):
    assert in_history(name)
