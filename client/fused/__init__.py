"""The fused gradient engine: a frozen BERT, LoRA and head whose backward pass emits per-window gradients.

weights.py     the frozen numbers; attention.py attention with LoRA, per-row gradients; encoder.py the forward pass
heads.py       the last layer on features or on every token, and its gradients; judging.py what it says of tokens
lower.py       what lies below LoRA, once for a text
factors.py     which flat weights are which factor, for each of K sites; sums.py clipped sums without whole rows
engine.py      `FusedEngine`, for one site or K in one pass; build.py which plans it covers, and a site's own engine
"""

from privet.client.fused.build import SiteEngine, covers, engine_of, frozen_base, shape_of
from privet.client.fused.engine import FusedEngine, read_features, read_states

__all__ = [
    "FusedEngine",
    "SiteEngine",
    "covers",
    "engine_of",
    "frozen_base",
    "read_features",
    "read_states",
    "shape_of",
]
