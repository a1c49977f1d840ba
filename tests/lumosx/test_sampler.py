from __future__ import annotations

import pytest
import torch

from dataengine.lumosx.parity import check_sampler
from dataengine.lumosx.sampler import Schedule, guided, sample


def test_trajectories_are_the_released_ones(fixtures):
    agreements = list(check_sampler(fixtures / "sampler.json"))
    assert [one.name for one in agreements] == ["sampler 50 steps", "sampler 8 steps"]
    assert max(one.fast for one in agreements) < 1e-4


def test_a_point_is_reached_from_any_noise():
    """For one data point x the velocity is (z - x)/σ at every z, and every step is exact."""
    target, schedule = torch.tensor([2.0, -1.0]), Schedule.flow(7, 3.0)
    sigmas = dict(zip(schedule.timesteps, schedule.sigmas, strict=False))
    end = sample(lambda z, t: (z - target) / sigmas[t], torch.randn(2), schedule)
    torch.testing.assert_close(end, target)


def test_more_steps_come_closer_in_second_order():
    def field(z, t):  # smooth, and not linear in time
        return torch.cos(torch.tensor(t / 300.0)) * z

    def solve(steps):
        return sample(field, torch.ones(1, dtype=torch.float64), Schedule.flow(steps, 1.0)).item()

    fine = solve(1000)
    assert abs(solve(100) - fine) < abs(solve(20) - fine) / 5


def test_one_step_is_euler():
    end = sample(lambda z, t: torch.full_like(z, 3.0), torch.zeros(1), Schedule.flow(1, 8.0))
    assert end.item() == -3.0


def test_guidance():
    assert guided(torch.tensor(3.0), torch.tensor(1.0), 6.0).item() == 13.0


@pytest.mark.parametrize("settings", [(0, 8.0), (5, 0.0)])
def test_bad_schedules_are_refused(settings):
    with pytest.raises(ValueError, match="steps must be at least 1"):
        Schedule.flow(*settings)
