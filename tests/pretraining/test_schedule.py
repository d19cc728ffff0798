import math

import pytest
import torch

from siammae.pretraining.schedule import learning_rate, parameter_groups, total_steps
from tests.helpers import tiny_model
from tests.pretraining.runs import run_config


@pytest.mark.parametrize(
    ("epochs", "videos", "samples", "batch", "steps"), [(400, 1000, 2, 2048, 391), (3, 4, 2, 8, 3), (1, 1, 1, 64, 1)]
)
def test_total_steps_are_all_pairs_over_the_batch_rounded_up(epochs, videos, samples, batch, steps):
    config = run_config(epochs=epochs, samples_per_video=samples, batch_size=batch)
    assert total_steps(config, videos) == steps


def test_learning_rate_rises_linearly_then_falls_along_half_a_cosine():
    config = run_config(epochs=100, warmup_epochs=10, base_lr=1e-3, batch_size=512)
    rates = [learning_rate(step, config, 1000) for step in range(1000)]
    peak = 1e-3 * 512 / 256
    assert max(rates) == rates[100] == pytest.approx(peak)
    for step in range(100):
        assert rates[step] == pytest.approx(peak * (step + 1) / 101)
    for step in range(100, 1000):
        assert rates[step] == pytest.approx(peak * (1 + math.cos(math.pi * (step - 100) / 900)) / 2)
    assert 0 < rates[-1] < 1e-5 * peak


def test_learning_rate_without_warmup_begins_at_its_peak():
    config = run_config(epochs=10, warmup_epochs=0, base_lr=1e-3, batch_size=256)
    assert learning_rate(0, config, 50) == pytest.approx(1e-3)


@pytest.mark.parametrize(("warmup", "total"), [(10, 5), (20, 5), (0, 1)])
def test_learning_rate_of_a_run_that_never_ends_its_warmup_stays_finite_and_below_the_peak(warmup, total):
    config = run_config(epochs=10, warmup_epochs=warmup, base_lr=1.0, batch_size=256)
    rates = [learning_rate(step, config, total) for step in range(total)]
    assert rates == sorted(rates)
    assert 0 < rates[0] <= rates[-1] <= 1


@pytest.mark.parametrize("fields", [{}, {"encoder": "joint", "decoder": "joint", "position": "learned"}])
def test_parameter_groups_let_matrices_decay_and_nothing_else(fields):
    model = tiny_model(**fields)
    decaying, rest = parameter_groups(model, 0.05)
    assert (decaying["weight_decay"], rest["weight_decay"]) == (0.05, 0.0)
    assert (decaying["lr_scale"], rest["lr_scale"]) == (1.0, 1.0)
    names = {id(weight): name for name, weight in model.named_parameters()}
    grouped = [{names[id(weight)] for weight in group["params"]} for group in (decaying, rest)]
    matrices = {
        f"{name}.weight" for name, part in model.named_modules() if isinstance(part, torch.nn.Linear | torch.nn.Conv2d)
    }
    trainable = {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert grouped[0] == matrices
    assert grouped[1] == trainable - matrices
    tokens = {"encoder.cls_token", "decoder.mask_token"} | ({"frame_embed", "decoder.frame_embed"} if fields else set())
    assert tokens <= grouped[1]
    assert ("encoder.pos_embed" in trainable) == (fields.get("position") == "learned")


JOINT = {"encoder": "joint", "decoder": "joint", "position": "learned", "registers": 2, "layer_scale": True}


@pytest.mark.parametrize("fields", [{}, JOINT, {"decoder": "cropmae"}], ids=str)
@pytest.mark.parametrize("layer_decay", [1.0, 0.5])
def test_parameter_groups_slow_the_first_layers_down(fields, layer_decay):
    model = tiny_model(depth=3, **fields)
    groups = parameter_groups(model, 0.05, layer_decay)
    weights = [weight for group in groups for weight in group["params"]]
    assert len(weights) == len({id(weight) for weight in weights})
    rates = {id(weight): (group["lr_scale"], group["weight_decay"]) for group in groups for weight in group["params"]}
    plain = {id(weight): group["weight_decay"] for group in parameter_groups(model, 0.05) for weight in group["params"]}
    for name, weight in model.named_parameters():
        if not weight.requires_grad:
            assert id(weight) not in rates
            continue
        power = 0  # encoder.norm and the decoder
        for block in range(3):
            if name.startswith(f"encoder.blocks.{block}."):
                power = 3 - block
        if name.startswith(("encoder.patch_embed.", "encoder.cls_", "encoder.pos_", "encoder.reg_", "frame_embed")):
            power = 4
        assert rates[id(weight)] == (layer_decay**power, plain[id(weight)]), name
    assert all(group["params"] for group in groups)
    assert len(groups) == (2 if layer_decay == 1 else 10)


def test_weights_move_in_proportion_to_their_group_when_its_rate_is_scaled():
    model = tiny_model(depth=2)
    groups = parameter_groups(model, 0.0, 0.5)
    optimizer = torch.optim.AdamW(groups, lr=0.0, betas=(0.0, 0.0), eps=0.0)
    for group in optimizer.param_groups:
        group["lr"] = 1e-2 * group["lr_scale"]
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    for weight in model.parameters():
        weight.grad = torch.ones_like(weight)
    optimizer.step()
    for part, move in (("encoder.blocks.0", 2.5e-3), ("encoder.blocks.1", 5e-3), ("encoder.patch_embed", 1.25e-3)):
        for name, weight in model.named_parameters():
            if name.startswith(part):
                torch.testing.assert_close(before[name] - weight, torch.full_like(weight, move), atol=1e-7, rtol=1e-3)
