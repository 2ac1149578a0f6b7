"""What an incident names as its cause: what came first, and what a rank has found."""

from __future__ import annotations

import pytest
from msgspec.structs import replace as replace_struct

from sentinel.engine.transition import Cause
from sentinel.wire import Finding
from tests.engine import world
from tests.engine.measured import ACTIVATION, LOSS, NAMES, NAN, WELL
from tests.engine.world import Job, alerts, incidents, steps


def test_an_incident_names_what_came_first_in_the_step_whatever_is_heard_first() -> None:
    gradient = world.rule("by_rank(nonfinite_gradient) > 0", "Gradient")
    names = [*NAMES, "nonfinite_gradient"]
    job = Job([gradient, LOSS, ACTIVATION], names)
    job.now += 1
    first = job.frame(0, 5, {**WELL, "nonfinite_gradient": 3.0})
    bad = {"loss": NAN, "nonfinite_activation": 4.0, "nonfinite_gradient": 3.0}
    then = job.frame(1, 5, bad, {"nonfinite_activation": "blocks.7.mlp"})
    assert [one.cause.rule for one in incidents(first)] == ["Gradient"]
    (updated,) = incidents(then)
    assert (updated.change, updated.id) == ("updated", incidents(first)[0].id)
    assert updated.cause == Cause(
        "Activation", "nonfinite_activation", 5, 1, "host1", "cuda:1", "blocks.7.mlp", micro_batch=0
    )
    assert [one.rule for one in alerts(then)] == ["Gradient", "Loss", "Activation"]


def test_an_earlier_step_ranks_before_an_earlier_stage() -> None:
    slow = world.rule("grad_norm > 5", "Norm", holds=steps(3))
    job = Job([slow, ACTIVATION], [*NAMES, "grad_norm"], 1)
    job.step(1, {**WELL, "grad_norm": 9.0})
    job.step(2, {**WELL, "grad_norm": 9.0})
    told = job.step(3, {**WELL, "grad_norm": 9.0, "nonfinite_activation": 1.0})
    assert [(one.change, one.cause.rule) for one in incidents(told)] == [("opened", "Norm")]


def test_of_several_findings_of_a_signal_the_first_is_told() -> None:
    job = Job([world.rule("by_rank(nonfinite_activation) > 0", "Now")], NAMES, 1)
    frame = world.frame(1, 1, NAMES, {**WELL, "nonfinite_activation": 2.0})
    findings = tuple(Finding("nonfinite_activation", name) for name in ("first", "second"))
    told = job.engine.feed(0, replace_struct(frame, findings=findings), job.now)
    assert incidents(told)[0].cause.module == "first"


LOCATED = Finding("nonfinite_activation", "h.3", 2, "h.3.weight", "9f86d081", ("a/1", "a/2"))


@pytest.mark.parametrize(
    ("finding", "named"),
    [
        (LOCATED, ("h.3", "h.3.weight", 2, "9f86d081", ("a/1", "a/2"))),
        (Finding("nonfinite_activation", "h.3"), ("h.3", None, 0, None, ())),
        (Finding("nonfinite_gradient", "h.3"), ("h.3", None, None, None, ())),
        (Finding("out_of_memory", "forward"), ("forward", None, None, None, ())),
        (Finding("nonfinite_gradient", "h.3", batch="9f"), ("h.3", None, 0, "9f", ())),
        (Finding("nonfinite_gradient", "", 1, "w", "9f"), (None, "w", 1, "9f", ())),
    ],
)
def test_the_cause_names_what_the_rank_has_found(
    finding: Finding, named: tuple[object, ...]
) -> None:
    summary = "{module} {parameter} {batch}"
    rule = world.rule(f"by_rank({finding.signal}) > 0", "Now", summary=summary)
    job = Job([rule], [finding.signal], 1)
    frame = replace_struct(
        world.frame(1, 1, [finding.signal], {finding.signal: 2.0}), findings=(finding,)
    )
    told = job.engine.feed(0, frame, job.now)
    cause = incidents(told)[0].cause
    assert (
        cause.module,
        cause.parameter,
        cause.micro_batch,
        cause.batch,
        cause.samples,
    ) == named
    in_words = " ".join(str(one or "?") for one in (named[0], named[1], named[3]))
    assert alerts(told)[0].summary == in_words


def test_an_alert_of_one_tensor_names_the_parameter_and_its_module() -> None:
    rule = world.rule("tensor_grad_norm > 5", "Large")
    job = Job([rule], ["tensor_grad_norm/h.3.mlp.weight", "tensor_grad_norm/bias"], 1)
    told = job.step(1, {"tensor_grad_norm/h.3.mlp.weight": 81.0, "tensor_grad_norm/bias": 81.0})
    named = {(one.labels["tensor"]) for one in alerts(told)}
    assert named == {"h.3.mlp.weight", "bias"}
    cause = incidents(told)[0].cause
    assert (cause.module, cause.parameter) in (("h.3.mlp", "h.3.mlp.weight"), (None, "bias"))


def test_after_a_rollback_the_module_of_the_new_step_is_told() -> None:
    rule = world.rule("by_rank(nonfinite_activation) > 0", "Now", summary="{module}")
    job = Job([rule], NAMES, 1)
    bad = {**WELL, "nonfinite_activation": 1.0}
    job.frame(0, 5, bad, {"nonfinite_activation": "before"})
    job.frame(0, 4, WELL)
    told = job.frame(0, 5, bad, {"nonfinite_activation": "after"})
    assert alerts(told)
    job.engine.ended(job.now)
    job.hello(0, "b")
    told = job.frame(0, 5, bad, {"nonfinite_activation": "again", "loss": "other"})
    assert [one.summary for one in alerts(told)] == ["again"]
