"""What ewma_z, cusum and spike_score are each for."""

from __future__ import annotations

import math

import numpy as np
import pytest

from sentinel.engine.detectors.cusum import Cusum
from sentinel.engine.detectors.ewma_z import EwmaZ
from sentinel.engine.detectors.spike_score import SpikeScore


def _noise(count: int, seed: int, level: float = 2.5, deviation: float = 0.05) -> list[float]:
    generator = np.random.default_rng(seed)
    return [float(value) for value in generator.normal(level, deviation, size=count)]


def test_ewma_z_weighs_all_alike_until_there_is_a_window_of_them() -> None:
    values = _noise(60, 1)
    detector = EwmaZ(window=200)
    for at, value in enumerate(values):
        score = detector.update(value)
        past = np.array(values[:at])
        if at < 32:
            assert math.isnan(score)
        elif abs(score) < 3:
            expected = (value - past.mean()) / past.std()
            assert score == pytest.approx(expected, rel=1e-9)


def test_ewma_z_follows_a_drifting_level() -> None:
    scores = []
    detector = EwmaZ(window=64)
    for at, value in enumerate(_noise(2000, 2)):
        scores.append(detector.update(value - 0.001 * at))
    assert np.abs(scores[64:]).max() < 6


def test_a_spike_hides_the_next_one_from_ewma_z_by_little() -> None:
    detector = EwmaZ(window=64)
    for value in _noise(300, 3):
        detector.update(value)
    first, second, third = (detector.update(5.0) for _ in range(3))
    assert first > 30
    assert first > second > third > 0.7 * first


def test_ewma_z_takes_a_level_that_stays_for_the_new_one_however_far_it_is() -> None:
    for level in (3.0, 1e3, 1e9, -1e9):
        detector = EwmaZ(window=64)
        for value in _noise(300, 4):
            detector.update(value)
        scores = [abs(detector.update(value)) for value in _noise(600, 5, level)]
        assert scores[0] > 8
        assert max(scores[-100:]) < 6


def test_ewma_z_after_a_constant_past_recovers_from_what_differs() -> None:
    detector = EwmaZ(window=32)
    for _ in range(40):
        detector.update(1.0)
    assert detector.update(1.0) == 0
    assert detector.update(1.1) == math.inf
    assert 0 < abs(detector.update(1.1)) < math.inf


def test_the_floor_of_ewma_z_is_a_share_of_the_level() -> None:
    detector = EwmaZ(window=32, floor=0.02)
    for _ in range(40):
        detector.update(1.0)
    assert detector.update(1.1) == pytest.approx(5.0)


@pytest.mark.parametrize("seed", range(5))
def test_cusum_finds_a_drift_that_no_single_step_shows(seed: int) -> None:
    """The trace of slow drift on which it was chosen: a deviation in 50 steps."""
    detector = Cusum()
    scores = []
    for at, value in enumerate(_noise(800, seed)):
        scores.append(detector.update(value + 0.001 * max(0, at - 400)))
    assert max(scores[200:400]) < 1
    assert max(scores[400:550]) > 1


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", ["normal", "heavy-tailed", "two levels"])
def test_cusum_is_quiet_on_noise_without_a_drift(kind: str, seed: int) -> None:
    generator = np.random.default_rng(seed)
    noise = {
        "normal": generator.normal(size=4000),
        "heavy-tailed": generator.standard_t(3, size=4000),
        "two levels": np.where(generator.random(4000) < 0.5, 0.0, 3.0)
        + 0.3 * generator.normal(size=4000),
    }[kind]
    detector = Cusum()
    assert not any(detector.update(2.5 + 0.05 * float(value)) > 1 for value in noise)


def test_one_spike_is_no_drift_for_cusum() -> None:
    detector = Cusum()
    for value in _noise(300, 6):
        detector.update(value)
    assert detector.update(1e6) < 0.5


def test_cusum_is_over_soon_after_the_values_have_come_back() -> None:
    detector = Cusum(window=200, k=1, h=6)
    for value in _noise(300, 7):
        detector.update(value)
    assert max(detector.update(value) for value in _noise(60, 8, level=3.0)) == 2.0
    after = [detector.update(value) for value in _noise(12, 9)]
    assert after[-1] < 1


def test_cusum_takes_a_level_that_stays_for_the_new_one() -> None:
    detector = Cusum(window=200)
    for value in _noise(300, 10):
        detector.update(value)
    scores = [detector.update(value) for value in _noise(400, 11, level=3.0)]
    assert scores[10] > 1
    assert max(scores[200:]) < 1


def test_cusum_says_nothing_of_what_falls() -> None:
    detector = Cusum()
    scores = [detector.update(value - 0.005 * at) for at, value in enumerate(_noise(600, 12))]
    assert max(scores[200:]) < 0.5


def test_the_spike_score_counts_the_spikes_of_its_window_and_forgets_them() -> None:
    detector = SpikeScore(window=500)
    for value in _noise(500, 13):
        detector.update(value)
    scores = [
        detector.update(6.0 if at in (100, 200) else value)
        for at, value in enumerate(_noise(1000, 14))
    ]
    assert scores[99] == 0
    assert scores[100] == 1 / 500
    assert scores[200] == scores[599] == 2 / 500
    assert scores[600] == 1 / 500
    assert scores[700] == 0


def test_the_spike_score_is_that_of_the_formula_over_a_whole_run() -> None:
    """7 deviations from the mean of the last 1,000 values, as a plain loop over the run has it."""
    generator = np.random.default_rng(15)
    values = 2.5 + 0.05 * generator.standard_t(3, size=1500)
    values[600::90] += 2.0
    detector = SpikeScore(window=1000)
    score = [detector.update(float(value)) for value in values][-1]
    spikes = 0
    for at in range(500, 1500):
        past = values[max(0, at - 1000) : at]
        spikes += abs(values[at] - past.mean()) >= 7 * past.std()
    assert spikes > 3
    assert score == spikes / 1000


def test_the_first_spike_of_a_run_is_not_all_that_there_is() -> None:
    detector = SpikeScore(window=1000)
    for value in _noise(40, 16):
        detector.update(value)
    assert detector.update(100.0) == 0.001
