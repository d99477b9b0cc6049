"""The adapter of a federation of tagged texts loads by the stock libraries alone, and says the same."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from privet.client.update_size import update_bytes
from privet.common.adapter import Role
from privet.common.layout import adapter_spec
from privet.common.model import build_classifier
from privet.server.export import export_adapter
from tests.client.token_cases import TYPES, token_plan
from tests.tiny_models import Kind, tiny_base, trained

_LOAD = """
import json, sys, torch, numpy as np
from peft import PeftModel
from transformers import AutoModelForTokenClassification
base, folder, ids, out = sys.argv[1:]
config = json.load(open(folder + "/adapter_config.json"))
assert config["task_type"] == "TOKEN_CLS", config
model = AutoModelForTokenClassification.from_pretrained(base, num_labels=5)
model = PeftModel.from_pretrained(model, folder).eval()
assert "privet" not in sys.modules
with torch.inference_mode():
    np.save(out, model(input_ids=torch.from_numpy(np.load(ids))).logits.numpy())
"""


@pytest.mark.slow
def test_plain_peft_without_privet(tmp_path: Path) -> None:
    base = tiny_base(tmp_path / "base")
    classifier = trained(token_plan(base, method="fedavg"), base)
    export_adapter(classifier, base, tmp_path / "adapter")
    ids = np.random.default_rng(0).integers(5, 60, (3, 12))
    np.save(tmp_path / "ids.npy", ids)
    arguments = [str(base), str(tmp_path / "adapter"), str(tmp_path / "ids.npy"), str(tmp_path / "out.npy")]
    subprocess.run([sys.executable, "-W", "ignore", "-c", _LOAD, *arguments], check=True, timeout=120)
    with torch.inference_mode():
        own = classifier(torch.from_numpy(ids), torch.ones(3, 12, dtype=torch.int64)).numpy()
    assert own.shape == (3, 12, 1 + 2 * len(TYPES))
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), own, atol=1e-6)
    assert np.abs(own).max() > 0.1


def test_layout_and_size_are_told_without_building(tmp_path: Path) -> None:
    kinds: tuple[Kind, ...] = ("bert", "roberta", "distilbert")
    for kind in kinds:
        base = tiny_base(tmp_path / kind, kind)
        plan = token_plan(base, method="fedavg")
        spec = build_classifier(plan, base).spec
        assert adapter_spec(plan, base) == spec
        assert update_bytes(plan, base) == 4 * spec.size
        assert not [entry for entry in spec.entries if entry.role is Role.NEW]
        assert json.loads(plan.canonical())["model"]["pooling"] == "none"
