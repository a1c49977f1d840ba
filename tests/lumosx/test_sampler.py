from __future__ import annotations

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler
from safetensors.torch import load_file

from dataengine.lumosx.parity import check_sampler
from dataengine.lumosx.sampler import Schedule, guided, sample


def test_trajectories_are_the_released_ones(fixtures):
    agreements = list(check_sampler(fixtures / "sampler.json"))
    assert [one.name for one in agreements] == ["sampler 50 steps", "sampler 8 steps"]
    assert max(one.fast for one in agreements) < 1e-4


def diffusers_trajectory(schedule, field, noise, own_schedule):
    """diffusers' DPM-Solver++ 2M midpoint, over its own flow schedule or over ours."""
    solver = DPMSolverMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=8.0)
    solver.set_timesteps(len(schedule.timesteps))
    if not own_schedule:
        solver.sigmas, solver.timesteps = torch.tensor(schedule.sigmas), torch.tensor(schedule.timesteps)
    z, steps = noise, []
    for t in solver.timesteps:
        z = solver.step(field(z, int(t)), t, z).prev_sample
        steps.append(z)
    return torch.stack(steps), solver.timesteps.tolist()


@pytest.mark.parametrize(("steps", "off", "other_times"), [(50, 7e-4, 15), (8, 2e-2, 2)])
def test_diffusers_solver_is_ours_and_its_schedule_is_not(fixtures, steps, off, other_times):
    """Why there is a sampler here: diffusers' flow schedule begins at 0.99987, not at 1, and floors other timesteps.

    Over our schedule its solver takes the released steps, to the tolerance; over its own it does not.
    """
    tensors = load_file(fixtures / "sampler.safetensors")
    expected = tensors[f"steps{steps}.trajectory"]
    schedule = Schedule.flow(steps, 8.0)

    def field(z, t):
        common = 0.5 * z * t / 1000 - 0.25
        return guided(torch.sin(2.0 * z) + common, torch.sin(1.3 * z) + common, 6.0)

    same, _ = diffusers_trajectory(schedule, field, tensors["z0"], own_schedule=False)
    assert (same.view_as(expected) - expected).abs().max() < 1e-5
    ours: list[torch.Tensor] = []
    sample(field, tensors["z0"], schedule, on_step=lambda step, z: ours.append(z))
    torch.testing.assert_close(torch.stack(ours), same, atol=2e-5, rtol=0)
    other, times = diffusers_trajectory(schedule, field, tensors["z0"], own_schedule=True)
    assert (other.view_as(expected) - expected).abs().max() == pytest.approx(off, rel=0.1)
    assert sum(a != b for a, b in zip(times, schedule.timesteps, strict=True)) == other_times


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
