"""What others have published does here what its source says, its weaknesses among it."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

from benchmarks.detectors.published import (
    Formula,
    KillLossSpike,
    RobustScore,
    SkipStep,
    SpikeScore,
    TenTimes,
    ZClip,
    ZScore,
)
from benchmarks.traces.trace import Row


def _noise(count: int, level: float = 2.0) -> list[float]:
    source = random.Random(0)
    return [level + source.gauss(0, 0.05) for _ in range(count)]


def _on_loss(formula: Formula, losses: Sequence[float]) -> list[int]:
    """The rows with an alarm."""
    rows = [Row(step, loss, None, None) for step, loss in enumerate(losses)]
    return [at for at, row in enumerate(rows) if list(formula.update(row))]


def _on_norm(formula: Formula, norms: Sequence[float]) -> list[int]:
    rows = [Row(step, None, norm, None) for step, norm in enumerate(norms)]
    return [at for at, row in enumerate(rows) if list(formula.update(row))]


def test_textbook_rules_see_a_spike_of_ten_deviations_at_once() -> None:
    for formula in (SpikeScore(), SkipStep(), ZScore(6.0), RobustScore()):
        assert _on_loss(formula, [*_noise(300), 3.0, *_noise(50)]) == [300]


def test_olmos_score_and_skip_step_have_a_nan_in_their_window_as_long_as_it_lasts() -> None:
    losses = [*_noise(300), math.nan, *_noise(20), 9.0, *_noise(50)]
    assert _on_loss(SpikeScore(), losses) == []
    skipped = _on_loss(SkipStep(), [*_noise(300), math.nan, *_noise(200)])
    assert skipped == list(range(300, 429))


def test_textbook_rules_leave_a_nan_out() -> None:
    losses = [*_noise(300), math.nan, *_noise(20), 9.0, *_noise(50)]
    for formula in (ZScore(6.0), RobustScore()):
        assert _on_loss(formula, losses) == [300, 321]


def test_zclip_clips_an_outlier_of_the_norm_and_never_again_after_a_nan() -> None:
    norms = [*_noise(200, 1.0), 5.0, *_noise(20, 1.0)]
    assert 200 in _on_norm(ZClip(), norms)
    assert _on_norm(ZClip(), [*_noise(50, 1.0), math.nan, *([100.0] * 20)])[-1:] < [50]


def test_kill_loss_spike_waits_for_the_fifth_outlier_and_for_high_losses() -> None:
    assert _on_loss(KillLossSpike(), [*_noise(150), *[5.0] * 4, *_noise(50)]) == []
    assert _on_loss(KillLossSpike(), [*_noise(150), *[5.0] * 6, *_noise(50)]) == [154, 155]
    assert _on_loss(KillLossSpike(), _noise(300, 50.0))[0] == 199


def test_ten_times_counts_from_the_largest_of_the_first_hundred() -> None:
    losses = [30.0, *_noise(150), 200.0, 320.0, math.inf]
    assert _on_loss(TenTimes(), losses) == [152, 153]
