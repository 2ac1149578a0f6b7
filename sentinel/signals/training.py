"""What training itself computes: loss, gradients, updates, experts, and what is not finite."""

from __future__ import annotations

from sentinel.signals.signal import Reduction, Signal, Stage

_MEAN, _SUM, _MAX, _ROOT_SUM = Reduction.MEAN, Reduction.SUM, Reduction.MAX, Reduction.ROOT_SUM
_FORWARD, _LOSS, _BACKWARD = Stage.FORWARD, Stage.LOSS, Stage.BACKWARD
_REDUCTION, _OPTIMIZER = Stage.REDUCTION, Stage.OPTIMIZER

TRAINING = (
    Signal("loss", "1", _MEAN, _LOSS, "loss of the rank's own micro-batches, mean over them"),
    Signal("lr", "1", _MEAN, _OPTIMIZER, "learning rate that this step used, first group"),
    Signal(
        "zero_lr",
        "1",
        _MAX,
        _OPTIMIZER,
        "1 if every group's learning rate was 0, so that the step could change nothing",
    ),
    Signal("loss_scale", "1", _MEAN, _BACKWARD, "factor on the loss in fp16 training"),
    Signal(
        "loss_scale_at_floor",
        "1",
        _MAX,
        _BACKWARD,
        "1 if the loss scale is as small as the scaler may make it",
    ),
    Signal("grad_norm", "1", _MEAN, _REDUCTION, "2-norm of all gradients, before clipping"),
    Signal(
        "summed_grad_norm",
        "1",
        _ROOT_SUM,
        _REDUCTION,
        "2-norm of all gradients, before clipping, from the shards of all ranks",
    ),
    Signal(
        "grad_norm_masked",
        "1",
        _MAX,
        _REDUCTION,
        "1 if the trainer said -1, infinity or nothing where its gradient norm was not finite",
    ),
    Signal(
        "clip_coefficient",
        "1",
        _MEAN,
        _OPTIMIZER,
        "what clipping multiplied the gradients by; 1 is no clipping",
    ),
    Signal(
        "backward_bypassed",
        "1",
        _MAX,
        _BACKWARD,
        "1 if loss.backward() was called past the trainer's own backward",
    ),
    Signal(
        "replica_checksum",
        "1",
        _MAX,
        _FORWARD,
        "of the bits of the weights that the rank computes with and that others hold too, by the"
        " ranks that hold them",
        label="replicas",
    ),
    Signal(
        "replica_grad_norm",
        "1",
        _MAX,
        _REDUCTION,
        "2-norm of the reduced gradients that the rank holds in full and others hold too, by the"
        " ranks that hold them",
        label="replicas",
    ),
    Signal("skipped", "1", _MAX, _OPTIMIZER, "1 if the optimizer silently skipped this step"),
    Signal("overflow", "1", _MAX, _OPTIMIZER, "1 if an fp16 loss scaler skipped this step"),
)

PARAMETERS = (
    Signal(
        "layer_grad_norm",
        "1",
        _ROOT_SUM,
        _REDUCTION,
        "2-norm of the gradients of a module's own parameters, before clipping",
        label="layer",
    ),
    Signal(
        "update_norm",
        "1",
        _ROOT_SUM,
        _OPTIMIZER,
        "2-norm of what the step added to all parameters",
        made_by="derived",
    ),
    Signal(
        "layer_update_norm",
        "1",
        _ROOT_SUM,
        _OPTIMIZER,
        "2-norm of what the step added to a module's own parameters",
        label="layer",
    ),
    Signal(
        "layer_weight_norm",
        "1",
        _ROOT_SUM,
        _OPTIMIZER,
        "2-norm of a module's own parameters before the step",
        label="layer",
    ),
    Signal(
        "layer_update_ratio",
        "1",
        _ROOT_SUM,
        _OPTIMIZER,
        "2-norm of the update over the 2-norm of the weights, of a module's own parameters",
        label="layer",
        made_by="derived",
    ),
    Signal(
        "layer_adam_rms",
        "1",
        _ROOT_SUM,
        _OPTIMIZER,
        "Adam's RMS_t as a 2-norm: root of the mean of g^2 / max(v, eps^2) over a module's own"
        " parameters",
        label="layer",
    ),
    Signal(
        "tensor_grad_norm",
        "1",
        _ROOT_SUM,
        _REDUCTION,
        "2-norm of the gradient of one parameter tensor, before clipping",
        label="tensor",
    ),
    Signal(
        "tensor_update_norm",
        "1",
        _ROOT_SUM,
        _OPTIMIZER,
        "2-norm of what the step added to one parameter tensor",
        label="tensor",
    ),
    Signal(
        "tensor_weight_norm",
        "1",
        _ROOT_SUM,
        _OPTIMIZER,
        "2-norm of one parameter tensor before the step",
        label="tensor",
    ),
    Signal(
        "tensor_update_ratio",
        "1",
        _ROOT_SUM,
        _OPTIMIZER,
        "2-norm of the update over the 2-norm of the weights, of one parameter tensor",
        label="tensor",
        made_by="derived",
    ),
    Signal(
        "tensor_adam_rms",
        "1",
        _ROOT_SUM,
        _OPTIMIZER,
        "Adam's RMS_t as a 2-norm: root of the mean of g^2 / max(v, eps^2) over one tensor",
        label="tensor",
    ),
)

NON_FINITE = (
    Signal("nonfinite_activation", "modules", _SUM, _FORWARD, "modules that put out NaN or Inf"),
    Signal(
        "nonfinite_local_gradient",
        "parameters",
        _SUM,
        _BACKWARD,
        "parameters whose gradient had NaN or Inf on this rank, before it was reduced",
    ),
    Signal(
        "nonfinite_gradient", "layers", _MAX, _REDUCTION, "layers whose gradient had NaN or Inf"
    ),
    Signal("nonfinite_update", "1", _MAX, _OPTIMIZER, "1 if a non-finite gradient was applied"),
)

EXPERTS = (
    Signal(
        "expert_load",
        "1",
        _MEAN,
        _FORWARD,
        "share of a layer's routed tokens that one expert got",
        label="expert",
    ),
    Signal(
        "expert_imbalance",
        "1",
        _MEAN,
        _FORWARD,
        "load of a layer's busiest expert over the mean load of its experts, of a rank's tokens",
        label="layer",
    ),
    Signal(
        "expert_dropped_tokens",
        "tokens",
        _SUM,
        _FORWARD,
        "tokens that found no room in a layer's experts, once for each that was full",
        label="layer",
    ),
)
