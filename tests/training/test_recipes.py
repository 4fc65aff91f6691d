"""What a recipe may be made of: optimizers, their groups, clipped gradients, batches in parts, skipped branches; all resumable."""

import math
import shutil

import pytest
import timm
import torch
from timm.optim import create_optimizer_v2

from lapml.config import Model
from lapml.data.batches import Batches
from lapml.data.index import rows_of
from lapml.errors import LapmlError, Stopped
from lapml.models.model import build
from lapml.runs import evaluate
from lapml.runs.execute import execute, load_model
from lapml.training import loop, step
from lapml.training.optim import groups, make_optimizer, set_rate

VIT = ["model.name=test_vit", "model.truncate=null", "data.birds.view.side=96", "data.birds.stored_side=96"]
CPU = torch.device("cpu")


def quietly(line: str) -> None:
    pass


def vit(side: int = 96):
    return build(
        Model(name="test_vit", weights="none", truncate=None, output_stride=None, embedding_dim=None), 4, side, 0
    )[0]


def ids(values) -> list[int]:
    return sorted(map(id, values))


# --- groups and optimizers ---


@pytest.mark.parametrize(
    "changes",
    [[], ["train.decay_norms=false"], ["train.layer_decay=0.7"], ["train.layer_decay=0.7", "train.decay_norms=false"]],
)
@pytest.mark.parametrize("dim", [None, 6])
def test_groups_hold_every_parameter_once(small_params, changes, dim):
    model = build(
        Model(name="test_vit", weights="none", truncate=None, output_stride=None, embedding_dim=dim), 4, 96, 0
    )[0]
    train = small_params(*changes).train
    found = groups(model, train)
    assert ids(value for group in found for value in group["params"]) == ids(model.parameters())
    head = {id(value) for value in (*model.head.parameters(), *model.projection.parameters())}
    for group in found:
        of_head = {id(value) for value in group["params"]} & head
        assert not of_head or len(of_head) == len(group["params"]) and group["lr_scale"] == train.head_lr_mult
        undecayed = group.get("weight_decay", train.weight_decay) == 0
        assert undecayed <= (not train.decay_norms)
        if undecayed:
            names = {id(value): name for name, value in model.named_parameters()}
            held = [names[id(value)] for value in group["params"]]
            assert all(
                model.get_parameter(name).ndim <= 1
                or name in ("backbone.pos_embed", "backbone.cls_token", "backbone.reg_token")
                for name in held
            )


def test_positions_are_not_decayed_where_norms_are_not(small_params):
    model = vit()
    for changes in (["train.decay_norms=false"], ["train.decay_norms=false", "train.layer_decay=0.7"]):
        found = groups(model, small_params(*changes).train)
        decayed = {id(value) for group in found if group["weight_decay"] for value in group["params"]}
        assert id(model.backbone.pos_embed) not in decayed and id(model.backbone.norm.weight) not in decayed
        assert id(model.backbone.blocks[0].mlp.fc1.weight) in decayed and id(model.head.bias) not in decayed


def test_layer_decay_by_hand(small_params):
    """Of six blocks: the embedding's factor is the smallest, each block's twice that before; the last norm's is its block's."""
    model = vit()
    scales = {
        id(value): group["lr_scale"]
        for group in groups(model, small_params("train.layer_decay=0.5").train)
        for value in group["params"]
    }
    assert scales[id(model.backbone.patch_embed.proj.weight)] == pytest.approx(0.5**6)
    for block in range(6):
        assert scales[id(model.backbone.blocks[block].attn.qkv.weight)] == pytest.approx(0.5 ** (5 - block))
    assert scales[id(model.backbone.norm.weight)] == 1
    assert scales[id(model.head.weight)] == small_params().train.head_lr_mult


def test_rates_follow_their_scale(small_params):
    optimizer = make_optimizer(vit(), small_params("train.layer_decay=0.5").train)
    set_rate(optimizer, 0.3)
    assert all(group["lr"] == 0.3 * group["lr_scale"] for group in optimizer.param_groups)


@pytest.mark.parametrize("name", ["adamw", "lamb", "lion"])
def test_an_optimizer_is_timms_own(small_params, name):
    train = small_params(
        f"train.optimizer={name}", "train.lr=0.01", "train.head_lr_mult=1.0", "train.weight_decay=0.05"
    ).train
    one, two = vit(), vit()
    mine, theirs = (
        make_optimizer(one, train),
        create_optimizer_v2(list(two.parameters()), name, lr=0.01, weight_decay=0.05),
    )
    assert type(mine) is type(theirs)
    for _ in range(3):
        for model, optimizer in ((one, mine), (two, theirs)):
            optimizer.zero_grad()
            model(torch.ones(2, 3, 96, 96)).logits.square().sum().backward()
            optimizer.step()
    for value, other in zip(one.parameters(), two.parameters(), strict=True):
        torch.testing.assert_close(value, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "method, recipe",
    [
        (
            "cutmix",
            ["train.optimizer=adamw", "train.layer_decay=0.75", "train.decay_norms=false", "train.clip_grad=1.0", *VIT],
        ),
        ("adaptive_margin", ["train.optimizer=lamb", "train.accumulate=3"]),
        ("loc_cutmix", ["train.optimizer=lion", "train.lr=0.0001", "model.drop_path=0.3", *VIT]),
        ("snapmix", ["model.drop_path=0.2", "train.accumulate=2", *VIT]),
        ("loc_cutmix", ["train.ema=0.9", "model.freeze=1"]),
        ("cutmix", ["data.birds.view.augment={ops: 2, magnitude: 9}", "data.birds.view.jitter=0.2"]),
    ],
)
def test_a_run_that_was_stopped_ends_in_the_same_numbers(small_run, packed, tmp_path, monkeypatch, method, recipe):
    run = small_run(method, *recipe)
    whole = loop.fit(run, packed, log=quietly)
    calls, take = 0, step.take_step

    def stopping(*given):
        nonlocal calls
        calls += 1
        if calls == 8:  # in the second epoch
            import signal

            signal.raise_signal(signal.SIGTERM)
        return take(*given)

    monkeypatch.setattr(loop, "take_step", stopping)
    with pytest.raises(Stopped):
        loop.fit(run, packed, tmp_path / "last.pt", log=quietly)
    resumed = loop.fit(run, packed, tmp_path / "last.pt", log=quietly)
    assert resumed.resumed == 1
    for one, two in zip(whole.models, resumed.models, strict=True):
        one, two = one.state_dict(), two.state_dict()
        assert all(torch.equal(one[key], two[key]) for key in one)
    assert [row["loss"] for row in whole.history] == [row["loss"] for row in resumed.history]


# --- torch.compile ---


@pytest.mark.slow
@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="needs a C++ compiler")
@pytest.mark.parametrize(
    "method, recipe",
    [
        ("baseline", ["model.freeze=1", "train.ema=0.9"]),
        ("adaptive_margin", ["methods.adaptive_margin.margin.every=2"]),
        ("snapmix", ["train.accumulate=2"]),
    ],
)
def test_a_compiled_model_learns_the_same(small_run, packed, method, recipe):
    """To rounding, in one graph that is compiled once."""
    torch.compiler.reset()
    torch._dynamo.utils.counters.clear()
    plain, compiled = (
        loop.fit(small_run(method, f"train.compile={value}", *recipe), packed, log=quietly)
        for value in ("false", "true")
    )
    counted = torch._dynamo.utils.counters
    assert counted["stats"]["unique_graphs"] == 1 and not counted["graph_break"]
    losses = [[row["loss"] for row in each.history] for each in (plain, compiled)]
    assert losses[1] == pytest.approx(losses[0], rel=5e-3) and losses[1] != losses[0]
    assert plain.model.state_dict().keys() == compiled.model.state_dict().keys()


def test_a_model_is_not_compiled_without_a_compiler(small_run, packed, monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(LapmlError, match="train.compile: found no C\\+\\+ compiler"):
        loop.fit(small_run("baseline", "train.compile=true"), packed)


# --- the weights' moving average ---


def test_the_average_by_hand(small_run, packed, monkeypatch):
    """After step t = 1, 2, …: the weights themselves, then decay min(0.9, 1 − t^(−2/3)) (timm's, its power and its warm-up)."""
    run = small_run("cutmix", "train.ema=0.9", "train.epochs=4")
    states, take = [], step.take_step

    def noting(learner, batch):
        found = take(learner, batch)
        states.append({name: value.clone() for name, value in learner.model.state_dict().items()})
        return found

    monkeypatch.setattr(loop, "take_step", noting)
    raw, average = loop.fit(run, packed, log=quietly).models
    assert len(states) > 12
    for name, value in average.state_dict().items():
        expected = states[0][name].double()
        for past, state in enumerate(states[1:], 1):
            decay = min(0.9, 1 - (1 + past) ** (-2 / 3)) if value.is_floating_point() else 0
            expected = decay * expected + (1 - decay) * state[name].double()
        torch.testing.assert_close(value.double(), expected, rtol=1e-4, atol=1e-5)
        assert torch.equal(raw.state_dict()[name], states[-1][name])
    assert any(not torch.equal(value, states[-1][name]) for name, value in average.state_dict().items())


def test_the_average_leaves_training_as_it_is(small_run, packed):
    plain, raw = loop.fit(small_run("snapmix"), packed), loop.fit(small_run("snapmix", "train.ema=0.99"), packed)
    assert [row["loss"] for row in plain.history] == [row["loss"] for row in raw.history]
    assert all(torch.equal(a, b) for a, b in zip(plain.model.parameters(), raw.models[0].parameters(), strict=True))


def test_the_average_is_evaluated_and_kept(small_run, packed, tmp_path):
    run = small_run("baseline", "train.ema=0.9")
    metrics = execute(run, packed, tmp_path / "run", log=quietly)
    raw, average = loop.fit(run, packed, log=quietly).models
    for model, name in ((raw, "raw_top1"), (average, "top1")):
        weights = build(run.model, 3, run.data.view.side, seed=0)[1]
        seen = evaluate.predict(model, packed, run, weights, CPU, "fp32")
        assert metrics[name] == evaluate.metrics(seen)["top1"]
    kept = load_model(tmp_path / "run", run, 3)[0]
    assert all(torch.equal(a, b) for a, b in zip(kept.parameters(), average.parameters(), strict=True))


# --- gradients ---


def test_gradients_are_clipped_together(small_run, packed, monkeypatch):
    run = small_run("baseline", "train.clip_grad=0.01", "train.epochs=2")
    norms, update = [], torch.optim.SGD.step

    def noting(self, *given):
        grads = [value.grad for group in self.param_groups for value in group["params"] if value.grad is not None]
        norms.append(float(torch.stack([grad.norm() for grad in grads]).norm()))
        return update(self, *given)

    monkeypatch.setattr(torch.optim.SGD, "step", noting)
    loop.fit(run, packed, log=quietly)
    assert norms and max(norms) <= 0.01 * 1.001 and max(norms) > 0.009


# --- a batch in parts ---


def one_step(run, packed, batch: int):
    model, weights = build(run.model, 3, run.data.view.side, seed=0)
    batches = Batches(packed, rows_of(packed.index, ["train"]), run.data.view, weights["mean"], weights["std"], CPU)
    learner = step.make_learner(run, model, len(packed.index), CPU, "fp32")
    set_rate(learner.optimizer, run.train.lr)
    given = next(iter(batches.training(0, 0, batch, run.settings)))
    stats, forwards, backwards = step.take_step(learner, given)
    return learner.model, stats, (forwards, backwards)


@pytest.mark.parametrize("method", ["baseline", "snapmix", "loc_cutmix", "margin", "adaptive_margin", "joint"])
@pytest.mark.parametrize("norm", ["of layers", "frozen"])
def test_a_batch_in_parts_is_the_whole_batch(small_run, packed, method, norm):
    """Losses, pairs that margins count and the update, to rounding, where the model's norms do not know other images."""
    extra = VIT if norm == "of layers" else ["train.batch_norm=frozen"]
    if method == "joint":
        method, extra = (
            "adaptive_margin",
            [*extra, "methods.adaptive_margin.margin.reference=joint", "methods.adaptive_margin.mixer.maps=fresh"],
        )
    extra += [
        "methods.margin.margin.every=1",
        "methods.adaptive_margin.margin.every=1",
        "train.batch=12",
        "train.lr=0.1",
    ]
    whole, stats, passes = one_step(small_run(method, *extra), packed, 12)
    parts, found, more = one_step(small_run(method, *extra, "train.accumulate=3"), packed, 12)
    for key, value in stats.items():
        torch.testing.assert_close(found[key], value, rtol=1e-4, atol=1e-5)
    for one, two in zip(whole.state_dict().values(), parts.state_dict().values(), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)
    assert more[1] == passes[1] and more[0] == passes[0] + passes[1]  # what goes backward is passed once more


def test_running_statistics_move_once_a_part(small_run, packed):
    """Though each part passes twice: by the momentum's formula, from each part's own statistics."""
    run = small_run("baseline", "train.batch=12", "train.accumulate=2")
    model, weights = build(run.model, 3, run.data.view.side, seed=0)
    batches = Batches(packed, rows_of(packed.index, ["train"]), run.data.view, weights["mean"], weights["std"], CPU)
    batch = next(iter(batches.training(0, 0, 12, run.settings)))
    first = next(module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d))
    seen = []
    first.register_forward_pre_hook(lambda module, given: seen.append(given[0].detach().mean((0, 2, 3))))
    learner = step.make_learner(run, model, len(packed.index), CPU, "fp32")
    step.take_step(learner, batch)
    assert len(seen) == 4  # two parts, forward and again
    expected = torch.zeros_like(seen[0])
    for mean in seen[:2]:
        expected = 0.9 * expected + 0.1 * mean
    torch.testing.assert_close(first.running_mean, expected)
    assert first.num_batches_tracked == 2
    torch.testing.assert_close(torch.stack(seen[:2]).sort(0)[0], torch.stack(seen[2:]).sort(0)[0])


def test_parts_of_a_margins_batch_have_references_of_their_own(small_run, packed):
    """With batch norm of the batch itself: an image that mixing does not change lies at its reference's place."""
    run = small_run("margin", "train.batch=12", "train.accumulate=2")
    model, weights = build(run.model, 3, run.data.view.side, seed=0)
    learner = step.make_learner(run, model, len(packed.index), CPU, "fp32")
    images = torch.randn(12, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    output, clean = learner.passed(images, images)
    assert (output.embedding - clean).norm(dim=1).max() < 1e-3 and model.training


@pytest.mark.parametrize("parts", [1, 2])
def test_references_skip_the_branches_that_their_images_skipped(small_run, packed, parts):
    """So that an image which mixing does not change lies at its reference's place; and no draw of the run is another for it."""
    keys = "model.name=tf_efficientnet_lite0", "model.truncate=16", "model.drop_path=0.5"
    run = small_run("margin", "train.batch=8", f"train.accumulate={parts}", *keys)
    model, _ = build(run.model, 3, 96, seed=0)
    learner = step.make_learner(run, model, len(packed.index), CPU, "fp32")
    images = torch.randn(8, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    found, after = {}, {}
    for asked in (None, images):
        torch.manual_seed(3)
        step.training_mode(model, "local")
        found[asked is not None] = learner.passed(images, asked)
        after[asked is not None] = torch.rand(1)
    (plain, _), (output, clean) = found[False], found[True]
    torch.manual_seed(4)
    step.training_mode(model, "local")
    other, _ = learner.passed(images)
    assert (output.embedding - clean).norm(dim=1).max() < 1e-3 < 0.1 < (other.embedding - clean).norm(dim=1).max()
    assert torch.equal(plain.embedding, output.embedding) and torch.equal(after[False], after[True])


def test_parts_take_less_memory():
    """What a pass keeps for its gradient: in parts, no more than the last part's and the parts' inputs."""
    from lapml.training.passes import passed

    model, kept = vit().train(), {}
    for parts in (1, 4):
        held = 0

        def pack(value):
            nonlocal held
            held += value.numel()
            return value

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
            output, _ = passed(model, model, torch.randn(8, 3, 96, 96), None, parts, "local")
        kept[parts] = held
        output.logits.sum().backward()
    assert kept[4] < kept[1] / 10


@pytest.mark.parametrize(
    "changes, said",
    [
        (["train.accumulate=5"], r"accumulate: found 5, expected parts of 2 images or more of batch \(6\)"),
        (["train.accumulate=6"], "accumulate: found 6, expected parts of 2 images"),
        (["train.optimizer=sdg"], "train.optimizer"),
        (["train.layer_decay=1.5"], "train.layer_decay"),
        (["model.drop_path=1.0"], "model.drop_path"),
    ],
)
def test_what_no_recipe_has(small_run, changes, said):
    with pytest.raises(LapmlError, match=said):
        small_run("baseline", *changes)


def test_dropped_paths_are_of_the_model(small_run, packed):
    run = small_run("baseline", "model.drop_path=0.4", "train.epochs=2", *VIT)
    model, _ = build(run.model, 3, 96, seed=0)
    rates = [module.drop_prob for module in model.modules() if isinstance(module, timm.layers.DropPath)]
    assert max(rates) == pytest.approx(0.4)
    assert all(math.isfinite(row["loss"]) for row in loop.fit(run, packed, log=quietly).history)
    with pytest.raises(LapmlError, match="timm cannot make it"):
        build(run.model.model_copy(update={"name": "vgg11"}), 3, 224, seed=0)


def test_paths_are_dropped_only_where_it_is_asked_for(small_run):
    """timm's Swin drops a tenth unless it is told not to."""
    swin = small_run("baseline", "model.name=swin_tiny_patch4_window7_224", "model.truncate=null").model
    for asked, rate in ((0.0, 0.0), (0.3, 0.3)):
        model, _ = build(swin.model_copy(update={"drop_path": asked}), 3, 224, seed=0)
        paths = [module for module in model.modules() if isinstance(module, timm.layers.DropPath)]
        assert paths and max(each.drop_prob for each in paths) == pytest.approx(rate)
