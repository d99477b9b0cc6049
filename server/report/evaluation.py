"""evaluation.html: how good an adapter is on a labelled file, if it knows that, and if it serves groups alike.

What is written may be of private text: it is for its owner's eyes only.
"""

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from privet.common.errors import ConfigError
from privet.common.evaluating.asked import Evaluation
from privet.common.evaluating.calibration import NUM_BINS, Calibration
from privet.common.evaluating.words import (
    NOT_COVERED,
    calibration_words,
    chance,
    group_words,
    left_words,
    number,
    percent,
)
from privet.common.starter import replace_file
from privet.server.report.confusion import LEVELS, HeatMap, heat_map
from privet.server.report.figure import GREY, Band, Columns, Figure, Line
from privet.server.report.page import environment
from privet.server.report.png import can_draw, write_pngs
from privet.server.report.write import Written

PAGE, DOCUMENT = "evaluation.html", "evaluation.json"
_MAX_LABELS = 300  # listed


def write_evaluation(found: Evaluation, told: Mapping[str, Any], folder: Path) -> Written:
    """Page, document and figures in `folder`, each whole or not at all, readable by their owner alone (mode 0600).

    Raises: ConfigError, RunError.
    """
    drawn, heat = plots(found), heat_of(found)
    replace_file(folder / DOCUMENT, (json.dumps(told, indent=2, allow_nan=False) + "\n").encode(), private=True)
    replace_file(folder / PAGE, evaluation_html(found).encode(), private=True)
    pngs = []
    if can_draw():
        try:
            with tempfile.TemporaryDirectory(dir=folder, prefix=".figures-") as draft:  # mode 0700
                for path in write_pngs(drawn, heat, Path(draft)):
                    path.chmod(0o600)
                    os.replace(path, folder / path.name)
                    pngs.append(folder / path.name)
        except OSError as error:
            raise ConfigError(
                f"cannot be written ({error.strerror or error}).", where=str(folder), mend="give a writable --output."
            ) from None
    return Written(folder / PAGE, tuple(pngs))


def evaluation_html(found: Evaluation) -> str:
    """The page's text; it loads nothing from anywhere."""
    labels = sorted(found.scores.labels, key=lambda part: (part.f1 is None, part.f1.value if part.f1 else 0.0))
    return (
        environment()
        .get_template("evaluation.html.j2")
        .render(
            found=found,
            scores=found.scores,
            calibration=found.calibration,
            comparison=found.comparison,
            calibration_words=calibration_words(found.calibration) if found.calibration else "",
            group_words=group_words(found.comparison, found.accuracy_name, by_label=found.calibration is not None)
            if found.comparison
            else [],
            left_words=left_words(found),
            not_covered=NOT_COVERED,
            labels=labels[:_MAX_LABELS],
            figures=plots(found),
            heat=heat_of(found),
            levels=LEVELS,
            percent=percent,
            number=number,
            chance=chance,
        )
    )


def heat_of(found: Evaluation) -> HeatMap | None:
    """None where a record may have several labels."""
    return None if found.confusion is None else heat_map(found.confusion, found.labels)


def plots(found: Evaluation) -> list[Figure]:
    """The reliability diagram, and how many statements each of its bins holds; none of entities."""
    return [] if found.calibration is None else [_reliability(found.calibration), _statements(found.calibration)]


def _reliability(found: Calibration) -> Figure:
    points = [(part.mean, part.share) for part in found.bins]
    return Figure(
        key="calibration",
        title="Said and seen",
        y="share that was right",
        x="probability that the model gave",
        summary="Share of right answers by the probability that the model gave, beside the diagonal of a perfect one.",
        lines=(
            Line("seen", tuple((x, share.value) for x, share in points), style=0),
            Line("perfect", ((0.0, 0.0), (1.0, 1.0)), style=GREY),
        ),
        bands=(Band("interval", tuple((x, share.low, share.high) for x, share in points), style=0),),
        limits=(0.0, 1.0),
        across=(0.0, 1.0),
        whole=False,
        note="Above the diagonal the model is more often right than it says, below it less often.",
    )


def _statements(found: Calibration) -> Figure:
    numbers = {round(part.low * NUM_BINS): float(part.num) for part in found.bins}
    return Figure(
        key="probabilities",
        title="How sure it is",
        y="answers",
        x="probability that the model gave",
        summary="How many answers the model gave with which probability.",
        columns=Columns(
            ("answers",),
            tuple((i + 0.5) / NUM_BINS for i in range(NUM_BINS)),
            tuple((numbers.get(i, 0.0),) for i in range(NUM_BINS)),
            1 / NUM_BINS,
            (0,),
        ),
        from_zero=True,
        across=(0.0, 1.0),
        whole=False,
    )
