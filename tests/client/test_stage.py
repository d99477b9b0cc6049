"""A plan that is tried out, by whoever has never seen a record."""

from pathlib import Path

from privet.client.stage import Stage
from privet.common.privacy.events import TrainEvent
from tests.tiny_models import tiny_base, tiny_plan


def test_a_plan_that_starts_from_a_trained_adapter_is_tried_out_as_any(tmp_path: Path) -> None:
    """Else no such plan could be rehearsed, nor served where the site bounds its memory."""
    base, event = tiny_base(tmp_path / "base"), TrainEvent(
        sample_rate=0.5, noise_multiplier=2.0, steps=1, max_grad_norm=1.0, expected_batch=2, unit="unit", max_records=2
    )  # fmt: skip
    derived = tiny_plan(base)
    named = derived.model_copy(update={"method": derived.method.model_copy(update={"init": "ab" * 32})})
    stage = Stage(named, str(base), event, local_only=True)
    assert stage.initial_digest == "ab" * 32
    assert Stage(derived, str(base), event, local_only=True).initial_digest != stage.initial_digest
    whole = stage._trainer.classifier.read()
    sent = {name: array for name, array in whole.items() if name.startswith("head.")}
    update = stage.round(sent, 1)
    assert {name: array.shape for name, array in update.items()} == {name: sent[name].shape for name in sent}
