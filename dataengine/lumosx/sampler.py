"""DPM-Solver++(2M) for flow matching and classifier-free guidance, as the released sampler runs them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Schedule:
    """Noise levels of a sampling run.

    Attributes:
        sigmas: steps + 1 values from 1 down to 0, rounded to float32 as the released code holds them.
        timesteps: steps integers ⌊1000·σ⌋, what the model is conditioned on.
    """

    sigmas: tuple[float, ...]
    timesteps: tuple[int, ...]

    @classmethod
    def flow(cls, steps: int = 50, shift: float = 8.0) -> Schedule:
        """σ = shift·s / (1 + (shift-1)·s) for s evenly spaced from 1, the last σ is 0.

        Raises:
            ValueError: fewer than one step or a shift that is not positive.
        """
        if steps < 1 or shift <= 0:
            raise ValueError(f"steps must be at least 1 and shift positive, got {steps} and {shift}")
        s = torch.linspace(1, 0, steps + 1, dtype=torch.float64)[:steps]
        sigma = shift * s / (1 + (shift - 1) * s)
        return cls((*sigma.float().tolist(), 0.0), tuple((sigma * 1000).long().tolist()))


def sample(
    velocity: Callable[[Tensor, int], Tensor],
    noise: Tensor,
    schedule: Schedule,
    on_step: Callable[[int, Tensor], None] | None = None,
) -> Tensor:
    """Integrate the flow from noise (σ = 1) to data (σ = 0).

    DPM-Solver++ 2M, midpoint form (Lu et al. 2022, arXiv 2211.01095), with α = 1-σ and data prediction
    x̂0 = z - σ·v. First order on steps 1 and 2 (at σ = 1 the log-SNR is infinite, so step 2 has no finite previous
    step size) and on the last; second order between.

    Args:
        velocity: (z, timestep) to the velocity, shaped as z.
        noise: z at σ = 1, any shape, float32.
        schedule: from `Schedule.flow`.
        on_step: called with (step index, z after it).

    Returns:
        z at σ = 0.
    """
    z, previous = noise, None
    steps = len(schedule.timesteps)
    for step, timestep in enumerate(schedule.timesteps):
        sigma, sigma_next = schedule.sigmas[step], schedule.sigmas[step + 1]
        data = z - sigma * velocity(z, timestep)
        # α'·e^(-h) = α·σ'/σ, written without the log-SNR so that σ = 1 and σ' = 0 need no special case.
        weight = (1 - sigma_next) - (1 - sigma) * sigma_next / sigma
        z = sigma_next / sigma * z + weight * data
        if previous is not None and 1 < step < steps - 1:
            ratio = _log_snr_step(schedule, step - 1) / _log_snr_step(schedule, step)
            z = z + 0.5 * weight / ratio * (data - previous)
        previous = data
        if on_step is not None:
            on_step(step, z)
    return z


def guided(conditional: Tensor, unconditional: Tensor, scale: float) -> Tensor:
    """Classifier-free guidance: unconditional + scale·(conditional - unconditional).

    The unconditional branch changes only the text (the negative prompt); it keeps references *and* phrase masks.
    """
    return unconditional + scale * (conditional - unconditional)


def _log_snr_step(schedule: Schedule, step: int) -> float:
    """λ' - λ over one step, with λ = log(α/σ); both ends strictly inside (0, 1)."""
    sigma = torch.tensor(schedule.sigmas[step : step + 2], dtype=torch.float64)
    before, after = ((1 - sigma).log() - sigma.log()).tolist()
    return after - before
