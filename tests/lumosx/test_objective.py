from __future__ import annotations

import pytest
import torch

from dataengine.lumosx.objective import (
    TimestepSampling,
    model_timesteps,
    noised,
    sample_losses,
    sample_timesteps,
    shifted,
)


def draw(count=4096, **settings):
    return sample_timesteps(count, TimestepSampling(**settings), torch.Generator().manual_seed(1)).double() / 1000


def quantiles(t):
    return torch.quantile(t, torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64))


@pytest.mark.parametrize("stratified", [False, True])
def test_distributions_have_their_quantiles(stratified):
    p = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    tolerance = {"atol": 1e-3 if stratified else 0.03, "rtol": 0}
    torch.testing.assert_close(quantiles(draw(stratified=stratified)), p, **tolerance)
    moved = 5 * p / (1 + 4 * p)
    torch.testing.assert_close(quantiles(draw(kind="shifted", shift=5.0, stratified=stratified)), moved, **tolerance)
    normal = torch.sigmoid(0.4 + 1.3 * torch.special.ndtri(p))
    got = quantiles(draw(kind="logit_normal", mean=0.4, std=1.3, stratified=stratified))
    torch.testing.assert_close(got, normal, **tolerance)


def test_stratified_draws_fall_one_in_each_stratum_in_no_order():
    t = draw(64)
    assert sorted((t * 64 - (t * 64).min()).round().int().tolist()) == list(range(64))
    assert t.tolist() != sorted(t.tolist())


def test_draws_are_reproducible():
    assert torch.equal(draw(8), draw(8))


def test_shift_eight_is_the_samplers_schedule():
    torch.testing.assert_close(shifted(torch.tensor(0.75), 8.0), torch.tensor(0.96))


@pytest.mark.parametrize(
    "settings",
    [{"kind": "cosine"}, {"shift": 2.0}, {"kind": "shifted", "shift": 0.0}, {"kind": "logit_normal", "std": -1.0}],
)
def test_bad_settings_are_refused(settings):
    with pytest.raises(ValueError, match=r"timestep|shift|std"):
        TimestepSampling(**settings)


def test_noise_keeps_the_fraction_that_the_model_does_not_see():
    t = torch.tensor([250.75, 1000.0])
    assert model_timesteps(t).tolist() == [250, 1000]
    latent, noise = torch.ones(2, 1, 1, 1, 1), torch.full((2, 1, 1, 1, 1), 3.0)
    torch.testing.assert_close(noised(latent, noise, t).flatten(), torch.tensor([1 + 2 * 0.25075, 3.0]))
    torch.testing.assert_close(noised(latent[0], noise[0], t[0]).flatten(), torch.tensor([1 + 2 * 0.25075]))


def test_loss_is_per_sample_in_float32():
    latent, noise = torch.zeros(1, 2, 2, 2), torch.ones(1, 2, 2, 2)
    exact = (noise - latent).bfloat16()
    losses = sample_losses([exact, exact - 2], [latent, latent], [noise, noise])
    assert losses.dtype is torch.float32 and losses.tolist() == [0.0, 4.0]


def test_the_path_from_data_to_noise_has_the_velocity_that_is_asked_for():
    latent, noise, t = torch.randn(4, 2, 3, 3), torch.randn(4, 2, 3, 3), torch.tensor(300.0)
    step = 1e-3
    velocity = (noised(latent, noise, t + 1000 * step) - noised(latent, noise, t)) / step
    assert sample_losses([velocity], [latent], [noise]).item() < 1e-5


def test_reference_frames_may_not_slip_into_the_loss():
    latent = torch.zeros(1, 2, 2, 2)
    with pytest.raises(ValueError, match="sample 0"):
        sample_losses([torch.zeros(1, 3, 2, 2)], [latent], [latent])
