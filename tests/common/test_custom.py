"""A method of one's own: the worked example of docs/methods.md to its row in every table, and what is refused."""

import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch

from lapml import config
from lapml.common import custom
from lapml.config.spaces import is_whole
from lapml.errors import LapmlError
from lapml.mixing import Evidence
from lapml.training import loop as train
from lapml.training import methods
from lapml.training.mixes import freshly

ROOT = Path(__file__).resolve().parents[2]
DOCS = (ROOT / "docs/methods.md").read_text(encoding="utf-8")


def block(mark: str) -> str:
    """The code block below a mark."""
    return re.search(rf"<!-- {re.escape(mark)} -->\n```\w+\n(.*?)```", DOCS, re.DOTALL).group(1)


EXAMPLE = block("my_methods.py")


def quietly(line: str) -> None:
    pass


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the example's file and params.yaml with its two rows."""
    (tmp_path / "my_methods.py").write_text(EXAMPLE)
    text = (ROOT / "params.yaml").read_text()
    (tmp_path / "params.yaml").write_text(text.replace("\ntune: ", f"{block('below methods:')}\ntune: "))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [each for each in sys.path if each])
    monkeypatch.delitem(sys.modules, "my_methods", raising=False)
    custom.bound.cache_clear()
    yield tmp_path
    sys.modules.pop("my_methods", None)
    custom.bound.cache_clear()


@pytest.fixture
def small(project, small_params):
    """A resolved run of one of the two rows; takes overrides."""
    mix = [
        "methods.bands.mix.warmup_epochs=0",
        "methods.consistent.mix.warmup_epochs=0",
        "methods.consistent.mix.prob=0.5",
    ]

    def made(*overrides: str, row: str = "bands"):
        return config.resolve(small_params(*mix, *overrides, path=project / "params.yaml"), "birds", row, 0)

    return made


def test_the_example_trains(project, packed, small):
    run = small()
    assert run.settings.mixer.model_extra == {"number": 6}
    fitted = train.fit(run, packed, log=quietly)
    assert all(each["rho_mean"] == 0.5 for each in fitted.history if each["mixed_batches"])
    assert run.record()["settings"]["mixer"]["sha256"] == custom.sha256(project / "my_methods.py")


def test_the_examples_mixer_does_what_it_says(project, packed, small):
    from lapml.data.batches import Batches
    from lapml.data.index import rows_of

    run = small("methods.bands.mix.prob=1.0")
    batches = Batches(
        packed, rows_of(packed.index, ["train"]), run.data.view, [0.5] * 3, [0.5] * 3, torch.device("cpu")
    )
    batch = next(iter(batches.training(0, 0, 6, run.settings)))
    mixed = methods.mix(run.settings, batch, Evidence())
    for i in range(6):
        for row in range(48):
            theirs = (row * 6 // 48 + int(batch.uniform[i, 0] < 0.5)) % 2 == 1
            source = batch.images[int(batch.donors[i]) if theirs else i]
            assert torch.equal(mixed.images[i, :, row], source[:, row])
    assert mixed.rho.tolist() == [0.5] * 6
    assert mixed.hidden(6)[0].mean() == 0.5


def test_an_own_loss_is_added_and_costs_a_pass_where_it_asks_for_the_reference(project, packed, small):
    history = train.fit(small(row="consistent"), packed, log=quietly).history
    mixed = sum(each["mixed_batches"] for each in history)
    assert 0 < mixed < 12  # batches of 6, of 36 images, in 2 epochs
    assert sum(each["images_forward"] for each in history) == 2 * 36 + 6 * mixed
    assert any(each["loss_custom"] > 0 for each in history)
    for each in history:
        assert each["loss"] == pytest.approx(each["ce"] + 0.1 * each["loss_custom"], rel=1e-5)
    with_it, without = (
        train.fit(
            small(f"methods.consistent.loss.weight={weight}", row="consistent"), packed, log=quietly
        ).model.state_dict()
        for weight in (10.0, 0.0)
    )
    assert not torch.equal(with_it["head.weight"], without["head.weight"])


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("methods.bands.mixer.number=many", "number: found 'many', expected: .*integer.*keys of my_methods.bands are: number"),
        ("methods.bands.mixer={name: my_methods.bands, stripes: 3}", "stripes: unknown key"),
        ("methods.bands.mixer.name=my_methods.stripes", "has no attribute 'stripes'"),
        ("methods.bands.mixer.name=mine.bands", "No module named 'mine'"),
        ("methods.bands.mixer.name=bandz", "expected one of mixup, cutout, .* or an entry point of group lapml.mixers"),
        ("methods.bands.mixer.name=my_methods.torch", "a module, expected a function"),
        ("methods.consistent.loss={name: my_methods.consistency, weight: -1}", "weight: found -1"),
        ("methods.consistent.loss.name=consistency", "entry point of group lapml.losses"),
        ("methods.bands.mixer={number: 3}", "name: found None, expected one of mixup, .*, or a name such as"),
        ("methods.bands.mixer={name: my_methods.bands, sha256: x}", "sha256: unknown key"),
        ("methods.bands.mixer.name=.my_methods.bands", "TypeError"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_line(project, override, said):
    with pytest.raises(LapmlError, match=said) as error:
        config.load("params.yaml", [override])
    assert len(str(error.value).splitlines()) == 1 and str(error.value).startswith("--set methods.")


def test_own_keys_are_never_taken_for_renamed_ones(project):
    """`alpha` of a loss and `beta` of a mixer once were keys of lapml."""
    (project / "my_methods.py").write_text(EXAMPLE.replace("power", "alpha"))
    with pytest.raises(LapmlError, match="methods.consistent.loss.weight: missing; add it$"):
        config.load("params.yaml", ["methods.consistent.loss={name: my_methods.consistency, alpha: 2.0}"])
    for key in ("methods.consistent.loss.alpha", "methods.bands.mixer.beta"):
        with pytest.raises(LapmlError, match="unknown key; remove it") as error:
            config.load("params.yaml", [f"{key}=2"])
        assert "renamed" not in str(error.value)


def test_a_file_that_cannot_be_imported_shows_its_own_error(project):
    (project / "my_methods.py").write_text("import nothing_of_that_name\n")
    with pytest.raises(LapmlError, match="No module named 'nothing_of_that_name'"):
        config.load("params.yaml")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("import torch\n", "import torch\n\nx = (\n"), "SyntaxError"),
        (("import torch\n", "import torch\n\n1 / 0\n"), "ZeroDivisionError: division by zero"),
        (
            ("batch: Draws, evidence", "batch: Draws, *, evidence"),
            r"arguments batch, evidence, settings, expected \(batch,",
        ),
        (
            ("settings: Bands", "number: int = 4"),
            "found number: <class 'int'>, expected a class that is a lapml.mixing.Mixer",
        ),
        (
            ("settings: Bands", "chosen"),
            r"my_methods.py: bands: found no annotation of its argument chosen, expected a class that is a lapml.mixing.Mixer, .*"
            r"write `class MySettings\(Mixer\): .* and `def bands\(batch, evidence, chosen: MySettings\)`",
        ),
        (
            ("evidence: Evidence, settings: Bands", "seen"),
            r"found the arguments batch, seen, expected \(batch, evidence, set",
        ),
        (("number: int = 4", "number: Number = 4"), "annotations cannot be read"),
        (
            ("number: int = 4", "number: int = 4\n    kind: object = torch.float32"),
            "must be numbers, text, lists or the",
        ),
        (("summary =", "asks = ('recent',)\n    summary ="), "asks: found 'recent', .* by a field `maps: Maps`"),
        (
            ("summary =", "asks = ('depth',)\n    summary ="),
            "Bands.asks: found 'depth', expected some of scores, attention",
        ),
        (
            ("summary =", "rules = ('volume',)\n    summary ="),
            "Bands.rules: found 'volume', expected some of area, sem",
        ),
    ],
)
def test_a_file_that_cannot_be_used_is_one_line_too(project, change, said):
    text = EXAMPLE.replace(*change)
    text = "from __future__ import annotations\n" + text.partition("\n")[2] if "Number" in text else text
    (project / "my_methods.py").write_text(text)
    with pytest.raises(LapmlError, match=said) as error:
        config.load("params.yaml")
    assert str(error.value).startswith("params.yaml: methods.bands.mixer: ")


def test_an_argument_of_a_loss_that_can_be_no_key_is_one_line_too(project):
    (project / "my_methods.py").write_text(EXAMPLE.replace("power: float = 1.0", "power: torch.Tensor = None"))
    with pytest.raises(LapmlError, match="consistency: its keys must be numbers, text, lists or the like") as error:
        config.load("params.yaml")
    assert len(str(error.value).splitlines()) == 1 and str(error.value).startswith("params.yaml: methods.consistent.")


def test_of_a_decorated_function_its_own_file_counts(project):
    (project / "my_methods.py").write_text(EXAMPLE.replace("def bands(", "@torch.no_grad()\ndef bands("))
    mixer = config.load("params.yaml").methods["bands"].mixer
    assert mixer.sha256 == custom.sha256(project / "my_methods.py") and mixer.model_extra == {"number": 4} | {
        "number": 6
    }


def test_a_file_does_not_take_the_place_of_a_library(project):
    (project / "random.py").write_text("raise RuntimeError('this is not the library')\n")
    config.load("params.yaml")
    assert sys.path.index(str(project)) == len(sys.path) - 1


@pytest.mark.parametrize(
    ("change", "key"),
    [
        (("number: int = 4", "number: int = 4\n    evidence: int = 1"), "evidence"),
        (("power: float = 1.0", "power: float = 1.0, weight: float = 1.0"), "weight"),
    ],
)
def test_a_key_may_not_be_called_as_one_of_ours(project, change, key):
    (project / "my_methods.py").write_text(EXAMPLE.replace(*change))
    with pytest.raises(LapmlError, match=f"its key '{key}' is a key of lapml"):
        config.load("params.yaml")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("return Mixed(", "return tuple("), "expected a Mixed"),
        ((".expand(-1, -1, side))", ".expand(-1, -1, side)), 0"), "expected a Mixed"),
        (
            ("1 - share, share, share, mask", "1 - share, share, share[:2], mask"),
            r"rho of shape \(2,\), expected \(6,\)",
        ),
        ((", mask=theirs[:, :, None].float().expand(-1, -1, side)", ""), "neither box_reference nor mask"),
        (("return Mixed(images,", "return Mixed(images[:2],"), r"images of shape \(2, 3, 48, 48\), expected \(6,"),
    ],
)
def test_a_mixer_that_returns_something_else(project, packed, change, said, small):
    text = EXAMPLE.replace(*change)
    (project / "my_methods.py").write_text(text.replace("mask=theirs", "theirs") if "tuple(" in text else text)
    with pytest.raises((LapmlError, TypeError), match=f"{said}|tuple"):
        train.fit(small(), packed, log=quietly)


def test_a_loss_that_is_no_number(project, packed, small):
    (project / "my_methods.py").write_text(EXAMPLE.replace("** power).mean()", "** power)"))
    with pytest.raises(
        LapmlError, match=r"my_methods.consistency: found a tensor of shape \(6,\) on cpu, expected a 0-d tensor"
    ):
        train.fit(small(row="consistent"), packed, log=quietly)


def test_the_examples_keys_are_tuned(project, small_params):
    space = (
        "bands: {mixer.number: {low: 2, high: 8}, mix.prob: {low: 0, high: 1}}, "
        "consistent: {loss.weight: {low: 0, high: 1}, loss.power: {low: 1, high: 2}}"
    )
    load = lambda space: small_params(  # noqa: E731
        "train.epochs=3", f"tune.methods={{{space}}}", path=project / "params.yaml"
    )
    params = load(space)
    whole = {
        path: is_whole(params, "birds", method, path)
        for method in ("bands", "consistent")
        for path in params.searched(method)
    }
    assert whole == {"mixer.number": True, "mix.prob": False, "loss.weight": False, "loss.power": False}
    run = config.resolve(params, "birds", "bands", 0, {"mixer.number": 3, "mix.prob": 0.75})
    assert run.settings.mixer.theirs().number == 3 and run.settings.mix.prob == 0.75
    assert run.settings.mixer.sha256 == custom.sha256(project / "my_methods.py")
    run = config.resolve(params, "birds", "consistent", 0, {"loss.weight": 0.5, "loss.power": 1.5})
    assert (run.settings.loss.weight, run.settings.loss.model_extra["power"]) == (0.5, 1.5)
    for path, values, said in (
        ("mixer.number", "{low: 2.5, high: 4}", "mixer.number: found 2.5, expected"),
        ("mixer.numbers", "{low: 2, high: 4}", "mixer.numbers: no setting of this method.*did you mean mixer.number"),
        ("mixer.sha256", "{choices: [a, b]}", "mixer.sha256: no setting of this method"),
    ):
        with pytest.raises(LapmlError, match=f"tune.methods.bands.{said}"):
            load(f"bands: {{{path}: {values}}}")


def test_keys_at_their_defaults_are_given_by_set_too(project):
    plain = [
        "methods.bands.mixer={name: my_methods.bands}",
        "methods.consistent.loss={name: my_methods.consistency, weight: 0.1}",
    ]
    params = config.load("params.yaml", [*plain, "methods.bands.mixer.number=7", "methods.consistent.loss.power=3.0"])
    assert params.methods["bands"].mixer.theirs().number == 7
    assert params.methods["consistent"].loss.model_extra["power"] == 3.0
    for wrong in ("bands.mixer.numbers=7", "bands.mixer.sha256=a", "bands.loss.power=3.0", "cutmix.mixer.number=7"):
        with pytest.raises(LapmlError, match=f"methods.{wrong.partition('.')[0]}"):
            config.load("params.yaml", [*plain, f"methods.{wrong}"])


def test_a_changed_file_is_another_row(project, packed, small):
    """Its runs are refused by the report, and a process that has read the settings does not go on with another code."""
    run = small()
    (project / "my_methods.py").write_text(EXAMPLE + "\n# edited\n")
    with pytest.raises(LapmlError, match="has changed since the settings were read"):
        train.fit(run, packed, log=quietly)
    again = small()
    assert again.record() != run.record()


def test_a_mixer_by_maps_with_label_rules_and_similar_parts(project, packed, small):
    """It takes a row's label and both margin losses, and the diagnosis gives it maps of a pass of their own."""
    text = EXAMPLE.replace("import Draws, Evidence, Mixed, Mixer", "import LABELS, Draws, Evidence, Maps, Mixed, Mixer")
    text = text.replace(
        "    number: int = 4", "    number: int = 4\n    maps: Maps = 'recent'\n    rules = tuple(LABELS)"
    )
    text = text.replace("    summary =", "    finds_similar = True\n    uniform = 3\n    summary =")
    text = text.replace("mask=theirs", "similarity=evidence.maps[:count].amax((1, 2)), mask=theirs")
    (project / "my_methods.py").write_text(text)
    margin = "{m: 0.3, weight: 0.5, pos_margin: 0.0, scale: constant, reference: detached, every: 1}"
    row = "{mix: {prob: 1.0, warmup_epochs: 0}, mixer: {name: my_methods.bands}, label: semantic, "
    row += f"margin: {margin}, adaptive: {{delta: 0.1, quantile: 0.5}}}}"
    params = config.load("params.yaml", [f"methods.bands={row}"])
    mixer = params.methods["bands"].mixer
    assert mixer.needs() == ("recent",) and mixer.uniform == 3 and mixer.labels() == ("area", "semantic", "snapmix")
    assert freshly(params.methods["bands"]).mixer.needs() == ("fresh",)
    assert (
        mixer.describe("area")
        == "my_methods.bands: every other band is the donor’s, labelled by area, labelled by area"
    )
    history = train.fit(small(f"methods.bands={row}"), packed, log=quietly).history
    assert all(each["loss_adaptive"] is not None and 0 < each["s_mean"] <= 1 for each in history)
    with pytest.raises(LapmlError, match="label: found None, expected one of area, semantic, snapmix"):
        config.load("params.yaml", [f"methods.bands={row.replace('label: semantic, ', '')}"])
    (project / "my_methods.py").write_text(text.replace("    finds_similar = True\n", ""))
    sys.modules.pop("my_methods")
    with pytest.raises(LapmlError, match="which finds similar parts"):
        config.load("params.yaml", [f"methods.bands={row}"])


def test_a_recorded_run_can_be_read_without_the_file(project, small):
    run = small(row="consistent")
    (project / "my_methods.py").unlink()
    sys.modules.pop("my_methods", None)
    record = run.model_dump(mode="json")
    assert config.Run.model_validate(record) == run


def test_an_entry_point(project):
    info = project / "mine-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[lapml.mixers]\nmine = my_methods:bands\n")
    params = config.load("params.yaml", ["methods.bands.mixer.name=mine"])
    assert params.methods["bands"].mixer.name == "mine"
    function = custom.bound("mine", params.methods["bands"].mixer.sha256, "lapml.mixers")
    assert function.__name__ == "bands"


@pytest.mark.slow
def test_the_example_gets_its_row_in_every_table(tmp_path):
    """As docs/methods.md says, from an edited params file to the report, by Snakemake."""
    for name in ("Snakefile", "rules", "profiles"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "my_methods.py").write_text(EXAMPLE)
    over = f"base: {ROOT}/suites/tiny.yaml\nablation: [baseline, bands, consistent]\ntuned_methods: []\n"
    (tmp_path / "params.yaml").write_text(f"{over}methods:\n{block('below methods:')}")
    command = [str(Path(sys.executable).parent / "snakemake"), "--cores", "2"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    logs = "".join(f"{log}:\n{log.read_text()}" for log in tmp_path.glob("results/tiny/logs/**/*.log"))
    assert done.returncode == 0, done.stderr[-2000:] + logs[-3000:]
    report, diagnosis = tmp_path / "results/tiny/report", tmp_path / "results/tiny/diagnosis/birds"
    assert pd.read_csv(report / "accuracy.csv")["method"].to_list() == ["baseline", "bands", "consistent"]
    for file in (report / "accuracy.md", report / "accuracy.tex", report / "report.html", diagnosis / "gallery.html"):
        assert "bands" in file.read_text(), file
    assert {"bands", "cutmix"} <= set(pd.read_csv(diagnosis / "diagnosis.csv")["method"])

    (tmp_path / "my_methods.py").write_text(EXAMPLE.replace("number: int = 4", "number: int = 5"))
    again = subprocess.run([*command, "-n", "-p"], cwd=tmp_path, capture_output=True, text=True).stdout
    assert "lapml train birds bands 0" in again and "lapml train birds consistent 0" in again
    assert "lapml train birds baseline" not in again
