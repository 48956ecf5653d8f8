"""Training as a user would train an own model, on a toy: resumable to the step, exportable, usable."""

from __future__ import annotations

import itertools
import math
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pillow_mcquic.coder import normalise_counts, pack_counts
from pillow_mcquic.model import ms_ssim
from pillow_mcquic.model.distortion import Distortion
from pillow_mcquic.model.ms_ssim import Original
from pillow_mcquic.model.network import Config
from pillow_mcquic.model.quantiser import Bank, Codebooks, group_of
from pillow_mcquic.model.search import Rates
from pillow_mcquic.training import start
from pillow_mcquic.training.data import Crops, find_photos, klt, random_crop
from pillow_mcquic.training.export import check_least_cost, export, load_objective
from pillow_mcquic.training.muon import Muon
from pillow_mcquic.training.objective import ERROR_COST, TEMPERATURE, ExpectedWord, Objective
from pillow_mcquic.training.settings import Settings
from pillow_mcquic.training.train import limit_gradients, optimisers, relative_cost, train, untrained

SETTINGS = """
steps = 6
batch = 2
crop = 64
warmup = 2
[model]
analysis_width_8 = 16
analysis_blocks_8 = 1
analysis_width_16 = 24
analysis_blocks_16 = 1
hyper_width = 16
means_blocks = 1
synthesis_width_16 = 16
synthesis_blocks_16 = 1
synthesis_width_8 = 8
synthesis_blocks_8 = 1
class_width = 16
context_width = 8
[model.distortion]
msssim = 0
msssim_growth = 0
"""


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory, photo: Image.Image) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    photo.crop((0, 0, 384, 256)).save(folder / "a.png")
    photo.crop((300, 200, 500, 400)).save(folder / "b.png")
    return folder


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    path = tmp_path_factory.mktemp("settings") / "toy.toml"
    path.write_text(SETTINGS)
    return Settings.read(path)


@pytest.fixture(scope="module")
def checkpoint(settings: Settings, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("run") / "toy.pt"
    train(settings, str(photos), path, log_every=2)
    return path


def test_settings_survive_and_unknown_ones_are_refused(settings: Settings) -> None:
    assert Settings.from_dict(settings.to_dict()) == settings
    with pytest.raises(ValueError, match="stepz"):
        Settings.from_dict({"stepz": 3})
    with pytest.raises(ValueError, match="widht"):
        Settings.from_dict({"model": {"widht": 3}})


def test_learning_rate_warms_up_holds_and_decays() -> None:
    s = Settings(steps=1000, warmup=100, hold=0.3, floor=0.01)
    assert s.rate_factor(0, 0.0) == 0.01
    assert s.rate_factor(200, 0.2) == 1
    assert s.rate_factor(1000, 1.0) == pytest.approx(0.01)
    assert s.rate_factor(20, 1.0) == pytest.approx(0.21 * 0.01)  # of a run that ends with its time, early


def test_rates_are_low_where_a_change_is_seen_at_once(settings: Settings) -> None:
    objective = untrained(settings)
    names = {id(parameter): name for name, parameter in objective.named_parameters()}
    adam, muon = optimisers(objective, settings)
    scale = {names[id(p)]: group["scale"] for o in (adam, muon) for group in o.param_groups for p in group["params"]}
    assert scale["model.klt_synthesis"] == settings.still
    assert scale["model.klt_analysis"] == scale["model.quantiser1.banks.2.words.1"] == settings.slow
    assert scale["tables_1.banks.0.logits.0"] == settings.tables
    assert {names[id(p)] for p in muon.param_groups[1]["params"]} == {
        "model.analysis_head.weight",
        "model.synthesis_16.0.weight",
        "model.synthesis_8.0.leave.weight",
        "model.synthesis_8.0.contract.weight",
        "model.synthesis_head.weight",
    }
    assert [group["scale"] for group in muon.param_groups] == [1, settings.slow]
    fixed = {name for name, p in objective.named_parameters() if not p.requires_grad}
    assert set(scale) == set(names.values()) - fixed


def test_a_step_without_a_finite_gradient_moves_nothing(settings: Settings) -> None:
    objective = untrained(settings)
    steppers = optimisers(objective, settings)
    generator = torch.Generator().manual_seed(1)

    def step(value: float) -> float:
        before = torch.nn.utils.parameters_to_vector(objective.parameters()).clone()
        for parameter in objective.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator) if parameter.requires_grad else None
        objective.model.analysis_head.bias.grad[3] = value
        not_finite = limit_gradients(objective, 1.0)
        for stepper in steppers:
            stepper.found_inf = not_finite
            stepper.step()
        return (torch.nn.utils.parameters_to_vector(objective.parameters()) - before).abs().max().item()

    assert step(1.0) > 0
    assert step(math.nan) == step(math.inf) == 0
    assert step(1.0) > 0


@pytest.mark.parametrize("padded", [False, True])
def test_muon_moves_matrices_as_torch_does(padded: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where they are put into larger ones, as on CUDA."""
    if padded:
        monkeypatch.setattr("pillow_mcquic.training.muon.room", lambda matrix: (16, 32))
    generator = torch.Generator().manual_seed(3)
    shapes = [(8, 8), (12, 5), (5, 12), (8, 8), (12, 5)]
    ours, theirs = ([torch.nn.Parameter(torch.ones(shape)) for shape in shapes] for _ in range(2))
    kinds: dict[Any, Any] = {Muon: ours, torch.optim.Muon: theirs}
    steppers = [kind(mine, lr=0.1, weight_decay=0.01, momentum=0.9) for kind, mine in kinds.items()]
    for _ in range(3):
        for mine, other in zip(ours, theirs, strict=True):
            mine.grad = torch.randn(mine.shape, generator=generator)
            other.grad = mine.grad.clone()
        for stepper in steppers:
            stepper.step()
    for mine, other in zip(ours, theirs, strict=True):
        assert torch.allclose(mine, other, atol=0.01)
        assert (mine - 1).abs().max() > 0.05


@pytest.mark.parametrize(
    ("value", "limited", "lost"),
    [(3.0, [0.6, 0.8], 0), (0.3, [0.3, 0.4], 0), (math.nan, [0, 0], 1), (math.inf, [0, 0], 1)],
)
def test_gradients_are_limited_and_lost_when_not_finite(value: float, limited: list[float], lost: int) -> None:
    module = torch.nn.Linear(1, 1)
    module.weight.grad, module.bias.grad = torch.tensor([[value]]), torch.tensor([value * 4 / 3])
    assert int(limit_gradients(module, 1.0)) == lost
    assert [module.weight.grad.item(), module.bias.grad.item()] == pytest.approx(limited, rel=1e-4)


def test_distortion_mixes_mse_and_msssim(photo: Image.Image) -> None:
    x = torch.from_numpy(np.array(photo.crop((0, 0, 192, 176)))).permute(2, 0, 1)[None].float() / 255
    original, narrow = Original(x), Original(x[..., :160])
    darker = (x - 0.02).clamp(0, 1)  # MS-SSIM hardly minds, MSE does
    noisy = (x + 0.02 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
    mse, half, msssim = (Distortion(0.01, 0.02, share, 0) for share in (0.0, 0.5, 1.0))
    one = torch.ones(1)
    assert half.of(x, original, one).abs() < 1e-4
    assert mse.of(darker, original, one).item() == pytest.approx(0.01 * 0.02**2 * 255**2, rel=0.1)
    assert mse.of(darker, original, 8 * one).item() == pytest.approx(0.02 * 0.02**2 * 255**2, rel=0.1)
    assert msssim.of(darker, original, one) < 0.2 * msssim.of(noisy, original, one)
    mean = (mse.of(noisy, original, one) + msssim.of(noisy, original, one)) / 2
    assert torch.allclose(half.of(noisy, original, one), mean)
    assert torch.equal(*(d.of(noisy[..., :160], narrow, one) for d in (half, mse)))  # too small for MS-SSIM


def test_msssim_of_few_windows_is_that_of_all(photo: Image.Image) -> None:
    import pytorch_msssim

    x = torch.from_numpy(np.array(photo.crop((400, 100, 656, 305)))).permute(2, 0, 1)[None].float() / 255
    blurred = torch.nn.functional.avg_pool2d(x, 3, 1, padding=1, count_include_pad=False).requires_grad_()
    figure, full = ms_ssim.ms_ssim(blurred, Original(x)), pytorch_msssim.ms_ssim(blurred, x, data_range=1.0)
    assert figure.item() == pytest.approx(full.item(), abs=5e-4)
    ours, theirs = (torch.autograd.grad(figure, blurred)[0] for figure in (figure.sum(), full))
    assert torch.cosine_similarity(ours.flatten(), theirs.flatten(), 0) > 0.995
    assert ms_ssim.ms_ssim(x, Original(x)).item() == pytest.approx(1)


def test_msssim_of_a_batch_is_that_of_each(photo: Image.Image) -> None:
    x = torch.stack([torch.from_numpy(np.array(photo.crop((at, 60, at + 208, 236)))) for at in (0, 400)])
    x = x.permute(0, 3, 1, 2).float() / 255
    noisy = x + torch.tensor([0.01, 0.05])[:, None, None, None] * torch.randn(x.shape)
    each = [ms_ssim.ms_ssim(noisy[i : i + 1], Original(x[i : i + 1])) for i in range(2)]
    assert each[0] > each[1] + 0.01
    assert torch.allclose(ms_ssim.ms_ssim(noisy, Original(x)), torch.cat(each), atol=1e-6)


def test_an_original_is_the_same_whoever_asks_first(photo: Image.Image) -> None:
    x = torch.from_numpy(np.array(photo.crop((0, 60, 208, 236)))).permute(2, 0, 1)[None].float() / 255
    original = Original(x)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        first = ms_ssim.ms_ssim(x + 0.01, original)
    again = ms_ssim.ms_ssim((x + 0.01).requires_grad_(), original)
    again.sum().backward()
    assert first.item() == pytest.approx(again.item(), abs=1e-6)


@pytest.mark.parametrize("stride", [1, 2, 4])
@pytest.mark.parametrize("size", [(401, 512), (777, 431), (64, 1000)])
def test_windows_in_bands_are_those_taken_at_once(
    size: tuple[int, int], stride: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = torch.Generator().manual_seed(1)
    a, b = torch.rand(2, 1, 2, *size, generator=generator)
    a.requires_grad_()
    monkeypatch.setattr(ms_ssim, "SHORT_SIDE", 32)
    banded = torch.stack(ms_ssim.Means.apply(a, b, stride))
    weights = torch.linspace(-1, 1, banded.numel()).view(banded.shape)
    slope = torch.autograd.grad((banded * weights).sum(), a)[0]
    monkeypatch.setattr(ms_ssim, "SHORT_SIDE", 1000)
    whole = ms_ssim.means(lambda rows: torch.stack([a, a * a, a * b])[..., rows, :], size[0], stride)
    expected = torch.autograd.grad((whole * weights).sum(), a)[0]
    assert banded.shape == (3, 1, 2, *((side - 11) // stride + 1 for side in reversed(size)))
    assert torch.allclose(banded, whole, atol=1e-6)
    assert torch.allclose(slope, expected, atol=1e-5)


def test_share_of_msssim_may_fall_with_quality() -> None:
    distortion = Distortion(msssim=0.6, msssim_growth=-0.05)
    assert torch.allclose(distortion.share(torch.tensor([1.0, 3.0, 8.0])), torch.tensor([0.6, 0.5, 0.25]))


def test_crops_depend_on_seed_step_and_rank_alone(photos: Path) -> None:
    pictures = [np.asarray(Image.open(p).convert("RGB")) for p in find_photos(photos)]
    crops = Crops(pictures, 64, 4, seed=1)
    assert torch.equal(crops[5][0], Crops(pictures, 64, 4, seed=1)[5][0])
    assert not torch.equal(crops[5][0], crops[6][0])
    assert not torch.equal(crops[5][0], Crops(pictures, 64, 4, seed=1, rank=1)[5][0])


@pytest.mark.parametrize(
    "workers", [0, pytest.param(2, marks=pytest.mark.skipif(not hasattr(os, "fork"), reason="forks"))]
)
def test_batches_come_in_order_whoever_cuts_them(photos: Path, workers: int) -> None:
    pictures = [np.asarray(Image.open(p).convert("RGB")) for p in find_photos(photos)]
    crops = Crops(pictures, 64, 2, seed=1)
    batches = list(crops.batches(range(3, 8), torch.device("cpu"), workers))
    assert len(batches) == 5
    for step, (mine, quality) in enumerate(batches, 3):
        assert torch.equal(mine, crops[step][0])
        assert torch.equal(quality, crops[step][1])


def test_crops_may_come_from_photos_made_smaller() -> None:
    """A ramp of one level a column: made smaller it rises by more, up to two."""
    photo = np.broadcast_to(np.arange(200, dtype=np.uint8)[None, :, None], (150, 200, 3))

    def rise(shrink: float, seed: int) -> float:
        crop = random_crop(photo, (60, 50), shrink, np.random.default_rng(seed))
        assert crop.shape == (60, 50, 3)
        return float(np.diff(crop[30, 5:-5, 0].astype(float)).mean())

    assert {rise(0.0, seed) for seed in range(5)} == {1.0}
    shrunk = [rise(1.0, seed) for seed in range(20)]
    assert 0.98 < min(shrunk) < 1.3
    assert 1.7 < max(shrunk) < 2.05
    assert np.array_equal(random_crop(photo, (150, 200), 1.0, np.random.default_rng(1)), photo)  # there is no room
    crops, smaller = (Crops([photo], 64, 2, seed=1, shrink=shrink) for shrink in (0.0, 1.0))
    assert not torch.equal(crops[0][0], smaller[0][0])


@pytest.mark.parametrize(
    "wrong",
    [
        {"model": {"distortion": {"msssim": 1.1}}},
        {"model": {"distortion": {"msssim": 0.3, "msssim_growth": -0.05}}},
        {"shrink": 2.0},
        {"average": -1.0},
    ],
)
def test_settings_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"0\.\.1"):
        Settings.from_dict(wrong)


def test_tables_that_make_files_too_short_are_refused() -> None:
    def one_word_only(banks: int) -> dict[str, np.ndarray]:
        arrays = {}
        for b, bank in enumerate(Config().level1[:banks]):
            for s, (k, _) in enumerate(bank.stages):
                counts = normalise_counts(np.eye(k)[0] + 1e-12)
                arrays[f"tables.1.{b}.{s}"] = np.broadcast_to(pack_counts(counts), (bank.groups, 1, 1, k))
        return arrays

    check_least_cost(one_word_only(len(Config().level1)))  # the least that tables of this model can cost
    with pytest.raises(ValueError, match="as little as"):
        check_least_cost(one_word_only(3))


def test_klt_is_orthonormal_and_sorted(photos: Path) -> None:
    pictures = [np.asarray(Image.open(p).convert("RGB")) for p in find_photos(photos)]
    basis, mean, deviation = klt(pictures, 32, patches=2000)
    assert torch.allclose(basis @ basis.t(), torch.eye(32), atol=1e-5)
    assert (deviation[:-1] >= deviation[1:]).all()
    assert 0 < float(mean.mean()) < 1


@pytest.mark.parametrize(("dim", "words"), [(1, 64), (2, 128), (4, 256)])
def test_gradient_of_a_word_is_that_of_an_expectation(dim: int, words: int, picking: bool) -> None:
    """The expected place of a random word, times what moving it brings, differentiated by autograd over all words."""
    torch.manual_seed(7)
    codebooks = Codebooks(Bank(groups=2, dim=dim, stages=((words, 1.0),)), classes=24)
    codebooks.initialise(0)
    c = codebooks.words[0].detach()
    x = torch.randn(2, 40, dim).mul(2 / dim).requires_grad_()
    bits = 1 + 30 * c.norm(dim=-1)[:, None] * torch.tensor([0.5, 1.0, 2.0])[:, None]  # of three classes
    low, share = torch.randint(0, 2, (2, 40)), torch.rand(2, 40)
    price = torch.stack([torch.lerp(bits[g, low[g]], bits[g, low[g] + 1], share[g, :, None]) for g in range(2)])
    cost = (x[:, :, None] - c[:, None]).square().sum(-1) / 0.11 + price
    index = cost.argmin(-1)
    chosen = torch.stack([c[g, index[g]] for g in range(2)])
    gradient = torch.randn(2, 40, dim) * 5  # of the distortion, bits a step

    slope = (gradient + 2 / 0.11 * (x - chosen)).detach()
    (torch.softmax(-cost / TEMPERATURE, -1) * torch.einsum("gnd,gkd->gnk", slope, c)).sum().backward()
    expected, x.grad = x.grad, None

    rates = Rates([bits[:, None]], group_of(x), low, share)
    observed = []
    word, again, nothing = ExpectedWord.apply(x, c, index, rates, low, 0.11, 2, lambda *what: observed.extend(what))
    assert torch.equal(word, chosen)
    assert torch.equal(again, chosen)
    assert torch.equal(nothing, torch.zeros(2))
    weight = torch.tensor([3.0, 0.5])  # of a bit in either image
    of_row = weight.repeat_interleave(20)[:, None]
    loss = (of_row * gradient * (0.25 * word + 0.75 * again)).sum() + (weight * nothing).sum()
    loss.backward()
    weighed = x.grad.abs().amax(-1) > 0
    assert 0.3 < weighed.float().mean() < 1 if picking else weighed.all()
    assert torch.allclose((x.grad / of_row)[weighed], expected[weighed], rtol=0.02, atol=0.1)
    assert torch.where(weighed[..., None], 0, expected).abs().max() < 0.1 * expected.abs().max()
    for seen, told in zip((0.25 * of_row * gradient, chosen - x, of_row[:, 0]), observed, strict=True):
        assert torch.equal(seen, told)


def test_every_quality_counts_alike(settings: Settings) -> None:
    """R-D of photos goes about as the root of lambda; a tenth less of it is the same gain at quality 1 and 8."""
    quality = torch.tensor([1.0, 8.0])
    typical = 10 * settings.model.distortion.weight(quality).sqrt()
    assert typical[1] > 5 * typical[0]
    gain = relative_cost(typical, quality, settings) - relative_cost(0.9 * typical, quality, settings)
    assert gain[0] == pytest.approx(float(gain[1]), rel=1e-3)
    slope = [
        float(relative_cost(rd + 1e-3 * typical, quality, settings)[0] - relative_cost(rd, quality, settings)[0])
        for rd in (0 * typical, typical, 4 * typical)
    ]
    assert slope[0] == pytest.approx(3 * slope[1], rel=0.01)  # an empty crop, one as usual, a busy one
    assert slope[1] == pytest.approx(3 * slope[2], rel=0.01)


def test_gains_go_where_errors_cost_the_same(settings: Settings) -> None:
    """An error that costs four times what it should halves the step, by its gain or by its class."""
    objective = untrained(settings)
    for tables in objective.tables_1.banks:
        cost, unit = tables.error_cost.view(2, -1, 8, 24)
        unit.fill_(1)
        cost.fill_(ERROR_COST)
    gain = objective.model.log_gain_1.clone()
    objective.allocate(speed=1.0)
    assert torch.allclose(objective.model.log_gain_1, gain, atol=1e-6)

    first = objective.tables_1.banks[0].error_cost.view(2, -1, 8, 24)
    first[0, 3, 5] *= 4  # group 3 at quality 6
    first[0, 4, :, 15] /= 2  # group 4 in class 15
    objective.allocate(speed=1.0)
    shift = objective.model.log_gain_1 - gain
    assert shift[5, 3] == pytest.approx(0.5, rel=0.03)  # of log 2, at most half a unit at once
    assert shift[4, 3] == pytest.approx(0, abs=1e-6)
    steps = objective.model.quantiser1.codebooks[0].log_step
    assert steps[4, 15 - 6] == pytest.approx(math.log(2) / 2, rel=0.1)
    assert steps[5].count_nonzero() == 0


def test_a_step_that_is_skipped_leaves_no_trace_in_what_errors_cost(settings: Settings) -> None:
    tables = untrained(settings).tables_1.banks[0]
    rank, classes = torch.zeros(5, dtype=torch.int64), torch.full((8, 5), 9)
    gradient, weight = torch.ones(8, 5, 1), torch.ones(5)
    tables.observe(gradient, gradient, weight, rank, classes)
    before = tables.error_cost.clone()
    gradient[3, 2] = math.nan
    tables.observe(gradient, gradient, weight, rank, classes)
    assert torch.equal(tables.error_cost, before)


def test_a_run_measures_what_errors_cost(checkpoint: Path) -> None:
    state = torch.load(checkpoint, weights_only=True)["objective"]
    cost, unit = state["tables_1.banks.0.error_cost"]
    assert unit.count_nonzero() > 20
    assert (cost[unit > 0] > 0).float().mean() > 0.8  # errors cost, but for noise
    assert state["model.log_gain_1"][:, 0].diff().count_nonzero() == 7


def test_what_is_exported_is_the_running_mean(checkpoint: Path, settings: Settings) -> None:
    state = torch.load(checkpoint, weights_only=True)
    mean, live = (state[which]["model.synthesis_head.weight"] for which in ("objective", "live"))
    assert 0 < (mean - live).abs().max() < 0.1 * live.abs().max()
    assert torch.equal(load_objective(checkpoint)[0].model.synthesis_head.weight, mean)
    assert [settings.average_share(step) for step in (0, 8, 90, 10**6)] == pytest.approx([0.9, 0.5, 0.09, 0.001])


def test_stopped_and_resumed_run_equals_an_unbroken_one(
    settings: Settings, photos: Path, checkpoint: Path, tmp_path: Path
) -> None:
    path = tmp_path / "toy.pt"
    train(settings, str(photos), path, stop_after_minutes=0)
    assert torch.load(path, weights_only=True)["step"] == 0

    class StopError(Exception):
        pass

    original = Crops.__getitem__

    def stop_at_3(self: Crops, step: int) -> object:
        if step == 3:
            raise StopError
        return original(self, step)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Crops, "__getitem__", stop_at_3)
        with pytest.raises(StopError):
            train(settings, str(photos), path, checkpoint_minutes=0)
    assert torch.load(path, weights_only=True)["step"] == 3
    train(settings, str(photos), path)
    unbroken, resumed = (torch.load(p, weights_only=True) for p in (checkpoint, path))
    assert resumed["step"] == unbroken["step"] == settings.steps
    for which in ("objective", "live"):
        for name, tensor in unbroken[which].items():
            assert torch.allclose(tensor, resumed[which][name], atol=1e-5), name


@pytest.mark.parametrize("change", ["other size", "earlier version"])
def test_checkpoint_of_another_model_says_what_to_do(
    change: str, settings: Settings, photos: Path, checkpoint: Path, tmp_path: Path
) -> None:
    path, state = tmp_path / "old.pt", torch.load(checkpoint, weights_only=True)
    name = "model.synthesis_head.weight"
    for which in ("objective", "live"):
        del state[which][name]
        if change == "other size":
            state[which][name] = torch.zeros(3, 3)
    torch.save(state, path)
    for use in (partial(train, settings, str(photos), path), partial(load_objective, path)):
        with pytest.raises(ValueError, match=rf"old.pt is of .* \(1 tensors .* {name}\); .* --start-from"):
            use()


def test_gains_move_every_few_steps(
    settings: Settings, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    speeds = list[float]()
    monkeypatch.setattr("pillow_mcquic.training.train.ALLOCATE_EVERY", 4)
    monkeypatch.setattr(Objective, "allocate", lambda self, speed: speeds.append(speed))
    train(settings, str(photos), tmp_path / "toy.pt")
    assert speeds == [4 * settings.allocation * settings.rate_factor(step, step / settings.steps) for step in (0, 4)]


def test_a_schedule_fitted_into_a_time_needs_one(settings: Settings, photos: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--minutes"):
        train(settings, str(photos), tmp_path / "toy.pt", within=True)


def test_a_schedule_fitted_into_a_time_goes_on_where_it_was(settings: Settings, photos: Path, tmp_path: Path) -> None:
    path, clock = tmp_path / "toy.pt", itertools.count()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("time.monotonic", lambda: float(next(clock)))
        train(settings, str(photos), path, stop_after_minutes=10 / 60, within=True)
        done = torch.load(path, weights_only=True)
        assert done["seconds"] >= 10
        train(settings, str(photos), path, stop_after_minutes=10 / 60, within=True)
        assert torch.load(path, weights_only=True)["step"] == done["step"]
        train(settings, str(photos), path, stop_after_minutes=20 / 60, within=True)
    more = torch.load(path, weights_only=True)
    assert 3 <= more["step"] - done["step"] <= 5


def test_a_schedule_may_be_fitted_into_a_time(settings: Settings, photos: Path, tmp_path: Path) -> None:
    path, clock = tmp_path / "toy.pt", itertools.count()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("time.monotonic", lambda: float(next(clock)))  # which goes by two a step
        train(settings, str(photos), path, stop_after_minutes=20 / 60, within=True)
    state = torch.load(path, weights_only=True)
    assert state["step"] == 10 > settings.steps
    assert state["optimisers"][1]["param_groups"][0]["lr"] == pytest.approx(
        settings.muon_rate * settings.rate_factor(9, 19 / 20)
    )


def test_exported_model_codes_pictures(
    checkpoint: Path, photos: Path, tmp_path: Path, small: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    from .conftest import from_bytes, psnr, to_bytes

    folder = tmp_path / "not" / "there"
    path = export(checkpoint, folder, str(photos), val_folder=None, crops=4)
    monkeypatch.setenv("PILLOW_MCQUIC_WEIGHTS", str(folder))
    monkeypatch.setenv("PILLOW_MCQUIC_MODEL", path.stem)
    data = to_bytes(small, quality=8)
    assert data[12:16].hex() == path.stem
    assert psnr(from_bytes(data), small) > 20
    monkeypatch.delenv("PILLOW_MCQUIC_MODEL")
    assert psnr(from_bytes(data), small) > 20  # found by the id in the file


def test_export_passes_over_what_is_no_photo(checkpoint: Path, tmp_path: Path, photo: Image.Image) -> None:
    (tmp_path / "photos").mkdir()
    for i in range(5):
        photo.resize((12, 12)).save(tmp_path / "photos" / f"icon{i}.png")
    photo.crop((0, 0, 100, 40)).save(tmp_path / "photos" / "photo.png")
    assert export(checkpoint, tmp_path / "out", str(tmp_path / "photos"), crops=7).exists()


def test_weights_that_fail_their_check_are_not_written(
    checkpoint: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pillow_mcquic.training.export.TOLERANCE", -1.0)
    with pytest.raises(ValueError, match="is not within"):
        export(checkpoint, tmp_path / "out", str(photos), val_folder=str(photos), crops=2)
    assert not list((tmp_path / "out").iterdir())


def test_validation_without_its_package_is_refused_at_once(
    settings: Settings, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pillow-mcquic\[training\]"):
        train(settings, str(photos), tmp_path / "x.pt", val_folder=str(photos))


def test_a_run_starts_from_weights_alone(checkpoint: Path, photos: Path, settings: Settings, tmp_path: Path) -> None:
    """All that a checkpoint's objective knows is in the weights file, up to rounding."""
    path = export(checkpoint, tmp_path, str(photos), val_folder=None, crops=4)
    from_checkpoint, from_weights = untrained(settings), untrained(settings)
    assert start.adopt(from_checkpoint, *start.read(checkpoint)) == []
    assert start.adopt(from_weights, *start.read(path)) == []
    for (name, a), b in zip(from_checkpoint.state_dict().items(), from_weights.state_dict().values(), strict=True):
        if not any(
            part in name for part in ("logits", "bias", "error_cost", "previews")
        ):  # tables are counted anew, biases of integer networks merged, previews fitted
            assert torch.allclose(a, b, rtol=1e-3, atol=2e-3), name
    embedding, quality = torch.randn(1, 96, 4, 4), torch.tensor([4.3])
    theirs, mine = (o.class_network_1(embedding, quality) for o in (from_checkpoint, from_weights))
    difference = (theirs - mine).abs()  # biases are rounded, and now and then an activation is then another
    assert difference.mean() < 0.005
    assert difference.max() < 0.1


def test_a_run_starts_from_another_layout(checkpoint: Path, settings: Settings) -> None:
    """Groups of four become groups of two: a new group has the classes of the group its channels were in."""
    import dataclasses

    banks = list(settings.model.level1)
    assert banks[2].dim == 4
    halves = dataclasses.replace(banks[2], groups=2 * banks[2].groups, dim=2)
    other = dataclasses.replace(
        settings, model=dataclasses.replace(settings.model, level1=(*banks[:2], halves, *banks[3:]))
    )
    objective = untrained(other)
    state, config = start.read(checkpoint)
    partial = start.adopt(objective, state, config)
    assert "model.klt_analysis" not in partial
    assert "model.quantiser1.banks.2.words.0" in partial
    theirs, mine = state["class_network_1.class_bias"], objective.class_network_1.class_bias
    before = banks[0].groups + banks[1].groups
    assert torch.equal(mine[:, : before + 1], theirs[:, : before + 1])
    assert torch.equal(mine[:, before + 1], theirs[:, before])
    assert torch.equal(mine[:, before + 2 * banks[2].groups], theirs[:, before + banks[2].groups])


def test_class_networks_of_an_earlier_kind_begin_anew(checkpoint: Path, settings: Settings) -> None:
    """They came before phase means, and their activations had another range."""
    state, config = start.read(checkpoint)
    earlier = {name: tensor for name, tensor in state.items() if ".phase_means." not in name}
    objective = untrained(settings)
    before = objective.class_network_1.enter.weight.clone()
    partial = start.adopt(objective, earlier, config)
    assert {"class_network_1.enter.weight", "context_networks.0.leave.bias", "model.phase_means.0.enter.weight"} <= set(
        partial
    )
    assert torch.equal(objective.class_network_1.enter.weight, before)
    assert torch.equal(objective.class_3, earlier["class_3"])


def test_a_wider_model_keeps_the_channels_it_had(checkpoint: Path, settings: Settings) -> None:
    """Also where a weight holds four positions of each channel, in `Down` and `Up`."""
    import dataclasses

    wider = dataclasses.replace(settings.model, analysis_width_8=24, synthesis_width_8=24)
    assert settings.model.analysis_width_8 < 24 > settings.model.synthesis_width_8
    objective = untrained(dataclasses.replace(settings, model=wider))
    state, config = start.read(checkpoint)
    start.adopt(objective, state, config)
    old, new = config.analysis_width_8, objective.model.analysis_down.of_four.weight
    theirs = state["model.analysis_down.of_four.weight"].view(len(new), 4, old)
    assert torch.equal(new.view(len(new), 4, 24)[..., :old], theirs)
    old, new = config.synthesis_width_8, objective.model.synthesis_16[2].to_four.weight
    theirs = state["model.synthesis_16.2.to_four.weight"].view(4, old, -1)
    assert torch.equal(new.view(4, 24, -1)[:, :old], theirs)


def test_blocks_added_to_a_model_change_nothing_at_first(
    checkpoint: Path, settings: Settings, photo: Image.Image
) -> None:
    import dataclasses

    deeper = dataclasses.replace(settings.model, analysis_blocks_16=2, synthesis_blocks_8=3)
    state, config = start.read(checkpoint)
    same, grown = (untrained(dataclasses.replace(settings, model=model)) for model in (settings.model, deeper))
    for objective in (same, grown):
        start.adopt(objective, state, config)
    pixels = torch.from_numpy(np.array(photo.crop((0, 0, 128, 128)))).permute(2, 0, 1)[None] / 255
    quality = torch.tensor([4.0])
    with torch.inference_mode():
        (before, bits, _), (after, other_bits, _) = same(pixels, quality), grown(pixels, quality)
    assert torch.equal(bits, other_bits)
    assert torch.equal(before, after)


def test_command_line_trains(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "toy.toml").write_text(SETTINGS)
    checkpoint = tmp_path / "new" / "toy.pt"
    command = [sys.executable, "-m", "pillow_mcquic.training", "train", photos, checkpoint]
    options = ["--settings", tmp_path / "toy.toml", "--val", photos, "--steps", "50", "--minutes", "0.05"]
    out = subprocess.run([*command, *options], capture_output=True, text=True, check=True, timeout=200)
    assert "val bpp" in out.stdout
    bad = subprocess.run([*command[:-2], tmp_path / "none", "x.pt"], capture_output=True, text=True, timeout=100)
    assert bad.returncode == 1
    assert "no image files" in bad.stderr
    (tmp_path / "notes.txt").write_text("no checkpoint")
    bad = subprocess.run(
        [*command[:3], "export", tmp_path / "notes.txt", tmp_path, photos], capture_output=True, text=True, timeout=100
    )
    assert bad.returncode == 1
    assert "notes.txt is not a checkpoint" in bad.stderr


@pytest.mark.skipif(os.name != "posix", reason="torchrun with gloo")
def test_two_processes_under_torchrun(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "toy.toml").write_text(SETTINGS)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += [
        "-m",
        "pillow_mcquic.training",
        "train",
        photos,
        tmp_path / "toy.pt",
        "--settings",
        tmp_path / "toy.toml",
    ]
    subprocess.run(command, check=True, capture_output=True, timeout=240, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert torch.load(tmp_path / "toy.pt", weights_only=True)["step"] == 6
