"""What a site needs to serve a plan: the plan's model, and the site's examples for it, parted once and for all."""

from dataclasses import dataclass

from privet.client.admission import Admission
from privet.client.data import Records
from privet.client.training import RoundTrainer
from privet.common import adapter
from privet.common.adapter import AdapterSpec
from privet.common.base import checked_base
from privet.common.config import Plan, Site
from privet.common.errors import Code, ModelError, RefusedError
from privet.common.examples import Examples
from privet.common.model import initial_arrays
from privet.common.precision import usable_precision
from privet.common.prefix import cache_bytes


@dataclass(frozen=True)
class Prepared:
    """A plan's model and this site's examples for it. A unit's are in one of the two."""

    digest: str  # of the plan
    trainer: RoundTrainer
    train: Examples
    validation: Examples
    initial_digest: str  # of the adapter that the plan derives, or names

    def received(self, round: int) -> AdapterSpec:
        """The arrays that a request of this training round must bring: by plan and round, never by the request."""
        method = self.trainer.method
        state = method.init(self.trainer.classifier.read())
        return self.trainer.spec.only(tuple(method.broadcast(self.trainer.spec, state, round)))


def prepare(plan: Plan, admission: Admission, site: Site, records: Records) -> Prepared:
    """Build the model of an approved plan, part the units and tokenise.

    Validation units are read only where the plan was approved with evaluations.
    Raises: RefusedError with BASE_MISMATCH; ConfigError where the site file's engine does not compute the plan;
    PrivetError from the gradient self-test.
    """
    base, memory = site.federation[plan.name].base or plan.model.base, site.resources.memory_bytes
    try:
        trainer = RoundTrainer(
            plan,
            checked_base(base, plan.model.sha256),
            engine=site.resources.engine,
            precision=usable_precision(site.resources.precision)[0],
            cache_bytes=cache_bytes(None if memory is None else memory // 2),
        )
    except ModelError as error:
        raise RefusedError(Code.BASE_MISMATCH, error.what, where=error.where, mend=error.mend) from None
    labelled = records.relabel(plan.task, site.data.label_map, site.data.label_separator)
    train, validation = labelled.split(0.0 if admission.evaluate_only else plan.training.train_fraction)
    if admission.evaluation is None:
        _, validation = labelled.split(1.0)  # nobody
    return Prepared(
        digest=plan.digest,
        trainer=trainer,
        train=trainer.prepare(train),
        validation=trainer.prepare(validation),
        initial_digest=plan.method.init or adapter.digest(initial_arrays(trainer.classifier)),
    )
