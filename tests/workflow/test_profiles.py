"""profiles/slurm without a SLURM (tests/slurm has one): what it says is of rules that there are, and nothing asks for all cores."""

import re
from pathlib import Path

from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parents[2]
RULES = "\n".join(path.read_text() for path in sorted((ROOT / "rules").glob("*.smk")))
NAMES = set(re.findall(r"^(?:rule |use rule \w+ as )(\w+)", RULES, re.M))
SLURM = YAML(typ="safe").load((ROOT / "profiles/slurm/config.yaml").read_text())
LOCAL = set(re.search(r"^localrules: (.*?)(?:  #|$)", (ROOT / "Snakefile").read_text(), re.M)[1].split(", ")) - {"all"}


def test_rules_that_the_profile_names_are_submitted_ones():
    assert LOCAL == {"fetch", "report"} and LOCAL < NAMES
    assert set(SLURM["set-resources"]) | set(SLURM["set-threads"]) <= NAMES - LOCAL


def test_rules_that_ask_for_gpus_are_those_that_the_pages_name():
    asking = {
        re.match(r"\w+", block)[0]
        for block in re.split(r"^(?:rule |use rule \w+ as )", RULES, flags=re.M)[1:]
        if "gpu=" in block
        or block.startswith(("train_tuned", "tune_margin", "tune_adaptive"))  # as of the rules they use
    }
    page = (ROOT / "profiles/README.md").read_text()
    named = re.search(r"under `set-resources` for (.*?) \|", page)[1]
    assert set(re.split(", | and ", named)) == asking


def test_no_rule_needs_a_number_of_cores_of_the_whole_workflow():
    """Snakemake has none on a cluster, and stops: "requires a total number of cores"."""
    assert "workflow.cores" not in RULES and "cores" not in SLURM


def test_the_plugin_that_the_page_speaks_of_is_the_one_that_is_installed():
    pinned = re.search(r"snakemake-executor-plugin-slurm==([\d.]+)", (ROOT / "pyproject.toml").read_text())[1]
    for file in ("docs/cluster.md", "profiles/slurm/config.yaml"):
        assert set(re.findall(r"plugin(?:'s)? \(([\d.]+)\)", (ROOT / file).read_text())) == {pinned}, file
