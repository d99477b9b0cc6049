"""The fused gradient engine: a frozen BERT, LoRA and head whose backward pass emits per-window gradients."""

from privet.client.fused.engine import FusedEngine, Shape
from privet.client.fused.weights import Bert, bert, why_not

__all__ = ["Bert", "FusedEngine", "Shape", "bert", "why_not"]
