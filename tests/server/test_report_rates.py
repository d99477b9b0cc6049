"""The figure of a schedule's rates."""

from pathlib import Path

import numpy as np

from privet.server.report.folder import read_run
from privet.server.report.page import figures
from tests.server.report_runs import plan_of, write_folder
from tests.server.statements import round_row


def test_a_schedule_is_drawn_and_one_rate_is_not(tmp_path: Path) -> None:
    training = {"rounds": 4, "expected_batch": 64, "learning_rate": 0.5}
    for further, points in (({}, None), ({"schedule": "linear"}, ((1, 0.5), (2, 0.35), (4, 0.05), (5, 0.05)))):
        events = [round_row(number) for number in (1, 2, 4, 5)]
        folder = write_folder(tmp_path / str(len(further)), events, plan=plan_of(training={**training, **further}))
        drawn = [figure for figure in figures(read_run(folder)).plots if figure.key == "rate"]
        if points is None:
            assert not drawn
            continue
        assert np.allclose(drawn[0].lines[0].points, points)
        assert "0.5, falling along a line to 0.05 in round 4" in drawn[0].summary
