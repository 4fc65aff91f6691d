"""Every command that README and the pages of docs/ show.

All are given to the parser of their command, and the suites, profiles and published results that they name must be there
(`test_commands_are_accepted`). Then they are run, page by page and word for word, in a clone of the project with small data
(`test_commands_of`, slow): all but those of LEFT_OUT, which says why. Those of DRY and of `make` are planned and not run.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from PIL import Image

from benchmarks.__main__ import app as benchmarks_app
from kit.__main__ import _parser as kit_parser
from lapml import config
from lapml.cli import app

ROOT = Path(__file__).resolve().parents[2]
PAGES = (  # in this order: later ones use what earlier ones made
    "docs/usage.md", "README.md", "docs/methods.md", "docs/experiments.md", "docs/data.md", "docs/offline.md",
    "docs/performance.md", "docs/cluster.md", "docs/diagnosis.md",
)  # fmt: skip
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
    "python -m pip": "asks a package index",
    "ssh ": "wants another machine",
    "git clone ADDRESS": "the same",
    "squeue ": "wants SLURM; tests/slurm has one",
    "snakemake --workflow-profile": "the same",
    "lapml train cub200": "wants CUB-200-2011",
    "mkdir lapml ": "on another machine; tests/kit/test_rehearsal.py pretends one, from `make kit` to `lapml publish`",
    "kit/run.sh ": "the same",
    "lapml publish --from": "the same",
}
DRY = (  # beginnings of commands that are only planned; so are those of make
    "snakemake --cores all --configfile suites/",
    "snakemake --cores all --resources",
)
PLANNED = "make -n -o .venv/.main -o .venv/.test VENV=.venv "
YOURS = "NAME|SUITE|mine.yaml|…"  # in names of files that a reader writes


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


def test_no_page_is_left_out():
    pages = {str(page.relative_to(ROOT)) for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md"))}
    assert pages == set(PAGES)
    shown = [line for page in PAGES for line in commands(ROOT / page)]
    for beginning in (*set(LEFT_OUT) - {"pre-commit ", "python -m pytest"}, *DRY):
        assert any(line.startswith(beginning) for line in shown), f"no page has {beginning!r} any more"


@pytest.mark.parametrize("page", [*PAGES, "CONTRIBUTING.md"])
def test_commands_are_accepted(page, tmp_path, monkeypatch):
    """Those of its blocks with all their arguments; of those within its text the options alone."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photo.jpg").touch()  # which must be there
    prose = re.sub(r"^ *```.*?^ *```", "", (ROOT / page).read_text(), flags=re.M | re.S)
    spans = re.findall(r"(?<!`)`((?:lapml|make|snakemake|kit/run\.sh|python -m) [^`]+)`", prose)
    for whole, lines in ((True, commands(ROOT / page)), (False, spans)):
        for line in lines:
            for command in re.split(r" *(?:&&|;) *", line.replace("\n", " ")):
                try:
                    accept(shlex.split(command), whole)
                except (Exception, SystemExit) as error:
                    pytest.fail(f"{page}: {line}: {getattr(error, 'message', error)}")


def accept(words: list[str], whole: bool) -> None:
    """Give a command to its parser, and look for the files that it names; raises an error where it is not accepted.

    Args:
        whole: it has all its arguments; else only its options are looked at.
    """
    for word in words:
        if re.match(r"(suites|profiles|results/published|tests|rules)/", word) and not re.search(YOURS, word):
            assert (ROOT / word).exists(), f"{word}: there is no such file"
    if words[0] == "make" and whole:
        environment = {key: value for key, value in os.environ.items() if not key.startswith(("MAKE", "MFLAGS"))}
        dry = [*PLANNED.split(), *words[1:]]
        subprocess.run(dry, cwd=ROOT, env=environment, check=True, capture_output=True)
    elif words[0] == "kit/run.sh" or words[:3] == ["python", "-m", "kit"]:
        arguments = ["run", *words[1:]] if words[0] == "kit/run.sh" else words[3:]
        if whole:
            kit_parser().parse_args(arguments)
    elif words[0] == "lapml" or words[:3] == ["python", "-m", "benchmarks"]:
        command, arguments = typer.main.get_command(app), words[1:]
        if words[0] == "python":
            command, arguments = typer.main.get_command(benchmarks_app), words[3:]
        while (known := getattr(command, "commands", None)) and arguments and arguments[0] not in ("…", "COMMAND"):
            if arguments[0].startswith("--"):
                break
            assert arguments[0] in known, f"there is no command {arguments[0]}"
            command, *arguments = known[arguments[0]], *arguments[1:]
        if whole:
            command.make_context("lapml", arguments)
        options = {option for each in command.params for option in (*each.opts, *each.secondary_opts)}
        used = {word.partition("=")[0] for word in arguments if word.startswith("--")}
        assert used <= {*options, "--help"}, f"there is no option {min(used - options)}"


@pytest.mark.parametrize("page", PAGES)
def test_suites_that_are_shown_are_valid(page, tmp_path):
    """The blocks that name a base."""
    for block in re.findall(r"^```yaml\n(base: .*?)^```", (ROOT / page).read_text(), re.M | re.S):
        base = re.match(r"base: (?:suites/)?(\S+)", block)[1]
        (tmp_path / "mine.yaml").write_text(f"base: {ROOT / 'suites' / base}\n{block.partition(chr(10))[2]}")
        assert config.load(tmp_path / "mine.yaml").suite == "mine"


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
        words = {"NAME": name, "RUN": f"results/{suite}/runs/{name}/baseline/0"}
        if page == "docs/usage.md":  # which has put a suite without this method into params.yaml
            words["train@birds-cutmix-0"] = "train@birds-baseline-0"
        for word, value in words.items():
            line = re.sub(rf"\b{word}\b", value, line)
        if any(line.startswith(each) for each in DRY):
            line += " --dry-run --quiet"
        if line.startswith("make "):
            line = line.replace("make ", PLANNED, 1)
        run(project, shell + line.replace("-C /tmp", f"-C {project.parent}"))
        if line.startswith("lapml init"):
            shrink(project / "mine.yaml")
        before.add(line)
    done.write_text("\n".join(before))


def prepare(page: str, project: Path) -> None:
    """What a page presupposes."""
    if page == "docs/usage.md":  # the suite whose settings are tuned, of small data
        (mine,) = re.findall(r"^```yaml\n(base: [^`]*?tune:.*?)^```", (ROOT / page).read_text(), re.M | re.S)
        mine = mine.replace("suites/demo.yaml", "suites/tiny.yaml").replace("trials: 20", "trials: 1")
        (project / "mine.yaml").write_text(mine)
        run(project, "for stage in fetch prepare; do lapml data $stage birds --params mine.yaml; done")
        return
    run(project, "lapml suite use demo")
    if page == "README.md":  # the file and the results of usage.md
        (project / "mine.yaml").unlink(missing_ok=True)
        shutil.rmtree(project / "results/mine", ignore_errors=True)
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
