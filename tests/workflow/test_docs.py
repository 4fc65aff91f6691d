"""README and docs: every link leads somewhere, and tables whose files only history holds are those of the files."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
EXPERIMENTS = (ROOT / "docs/experiments.md").read_text()
IN_HISTORY = sorted(set(re.findall(r"git show ([0-9a-f]{7}:[\w./-]+\.md)", EXPERIMENTS)))


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


def test_experiments_name_their_files_in_history():
    assert len(IN_HISTORY) == 10  # six tables of accuracies, three of diagnoses, one of distances


@pytest.mark.parametrize("name", IN_HISTORY)
def test_experiments_keep_the_tables_of_deleted_suites(name):
    body = re.sub(r"^### .*\n", "", in_history(name)).strip()  # the heading names the data set only
    assert body in EXPERIMENTS


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`([\w-]+\.yaml)`", EXPERIMENTS))))
def test_experiments_name_suites_that_history_has(name):
    assert in_history(f"f9f65d8:suites/{name}")
