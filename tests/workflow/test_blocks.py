"""Every command that README and docs show, word for word, in a clone of the project with small data.

Commands that need CUB-200-2011, a GPU, another machine or hours are run dry, or left out with the reason.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
PAGES = ("docs/usage.md", "README.md", "docs/methods.md", "docs/experiments.md", "docs/data.md")
SMALL = """base: tiny.yaml
suite: demo
ablation: [baseline, cutmix, loc_cutmix]
tuned_methods: [margin]
"""
LEFT_OUT = {  # beginning of a command: why it is not run
    "torchrun ": "wants several machines; tests/common/test_ranks.py pretends two",
    "dvc push": "wants a remote; tests/workflow/test_machines.py has one",
    "dvc remote ": "the same",
    "dvc fetch ": "the same",
    "dvc repro --pull": "the same",
    "pre-commit ": "is no dependency",
    "optuna-dashboard ": "is no dependency, and serves until it is stopped",
    ". .venv/": "this environment is active already",
    "python -m pytest": "would be this test",
    "make ": "is run dry",
}
DRY = (  # beginnings of commands that are only planned
    "snakemake --cores all --configfile suites/",
    "snakemake --cores all --resources",
)
# Pages that are run elsewhere: by tests/kit/test_rehearsal.py, by tests/slurm, and a GPU's page is the GPU's
ELSEWHERE = ("docs/offline.md", "docs/cluster.md", "docs/performance.md", "docs/diagnosis.md")


def commands(page: Path) -> list[str]:
    """The lines of a page's blocks of commands, without comments."""
    blocks = re.findall(r"^```sh\n(.*?)^```", page.read_text(), re.M | re.S)
    lines = (re.sub(r"(^|\s+)# .*$|\s+#$", "", line) for block in blocks for line in block.splitlines())
    return [line.strip() for line in lines if line.strip()]


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """A clone with what is changed here, a small suite in place of the default one, and photos of three classes."""
    if not (ROOT / ".git").exists():
        pytest.skip("not in a git checkout, which the commands of DVC need")
    folder = tmp_path_factory.mktemp("blocks") / "lapml"
    subprocess.run(["git", "clone", "-q", str(ROOT), str(folder)], check=True)
    changed = ["git", "ls-files", "-z", "--modified", "--others", "--exclude-standard"]
    listed = subprocess.run(changed, cwd=ROOT, check=True, text=True, capture_output=True).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    (folder / "suites/demo.yaml").write_text(SMALL)
    for key, value in (("user.name", "someone"), ("user.email", "someone@example.org")):
        subprocess.run(["git", "config", key, value], cwd=folder, check=True)
    run(folder, "lapml suite use demo; git add -A; git commit -qm small; lapml data fetch birds")
    birds = sorted((folder / "data").glob("drawn-*/images/*/*.png"))
    named = {f"photos/{picture.parent.name}/{picture.stem}.jpg": picture for picture in birds[:42]}
    for name, picture in {**named, "photo.jpg": birds[-1], "more/bird.jpg": birds[-2]}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.open(picture).convert("RGB").save(folder / name)
    return folder


def run(folder: Path, command: str) -> str:
    """Run a line in a shell of the environment; its output."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
    environment = {key: value for key, value in environment.items() if not key.startswith("LAPML_")}
    done = subprocess.run(
        ["bash", "-c", f"set -e; {command}"], cwd=folder, env=environment, text=True, capture_output=True
    )
    assert done.returncode == 0, f"{command}\n{(done.stdout + done.stderr)[-4000:]}"
    return done.stdout


def test_every_page_is_run_here_or_elsewhere():
    pages = {str(page.relative_to(ROOT)) for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md"))}
    assert pages == {*PAGES, *ELSEWHERE}
    assert "kit/run.sh PIECES" in "\n".join(commands(ROOT / "docs/offline.md"))


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_commands_of(page, project):
    done = project / ".done"  # lines that an earlier page ran: DVC's take minutes
    before = set(done.read_text().splitlines()) if done.exists() else set()
    prepare(page, project)
    shell = ""  # what later lines of the page depend on
    for line in commands(ROOT / page):
        if (line in before and line.startswith("dvc ")) or any(line.startswith(each) for each in LEFT_OUT):
            continue
        if re.match(r"\w+=\S+$|export ", line):
            shell += f"{line}; " if "/path/to" not in line else ""
            continue
        name, suite = ("mine", "mine") if page == "docs/data.md" else ("birds", "demo")
        for word, value in (("NAME", name), ("RUN", f"results/{suite}/runs/{name}/baseline/0")):
            line = re.sub(rf"\b{word}\b", value, line)
        if any(line.startswith(each) for each in DRY):
            line += " --dry-run --quiet"
        run(project, shell + line.replace("-C /tmp", f"-C {project.parent}"))
        if line.startswith("lapml init"):
            shrink(project / "mine.yaml")
        before.add(line)
    done.write_text("\n".join(before))


def prepare(page: str, project: Path) -> None:
    """What a page presupposes."""
    if page == "docs/usage.md":
        return
    run(project, "lapml suite use demo")
    if page == "docs/methods.md":
        run(project, "lapml data prepare birds; lapml localise birds")
        blocks = re.findall(
            r"<!-- (my_methods.py|below methods:) -->\n```\w+\n(.*?)```", (ROOT / page).read_text(), re.S
        )
        (project / "my_methods.py").write_text(dict(blocks)["my_methods.py"])
        text = (
            (project / "params.yaml")
            .read_text()
            .replace("\nmethods:", "\nmethods:\n" + dict(blocks)["below methods:"], 1)
        )
        text = re.sub(
            r"^ablation: .*$", "ablation: [baseline, cutmix, loc_cutmix, bands, consistent]", text, flags=re.M
        )
        (project / "params.yaml").write_text(text)
    if page == "docs/data.md":
        for used in ("data/mine", "results/mine"):  # by README
            shutil.rmtree(project / used, ignore_errors=True)
        mine = re.search(r"write `suites/mine.yaml`.*?```yaml\n(.*?)```", (ROOT / page).read_text(), re.S)[1]
        (project / "suites/mine.yaml").write_text(mine)
        shrink(project / "suites/mine.yaml")


def shrink(suite: Path) -> None:
    """Few and short runs of a suite."""
    text = re.sub(r"^(train: .*|seeds: .*|tuned_methods: .*|diagnose: .*)\n", "", suite.read_text(), flags=re.M)
    suite.write_text(
        f"{text}train: {{epochs: 3, batch: 4}}\nseeds: [0]\ntuned_methods: []\ndiagnose: {{images: 8, pairs: 2}}\n"
    )
