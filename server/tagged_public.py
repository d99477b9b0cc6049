"""The server's public file of texts of which every word has a tag."""

import numpy as np

from privet.common.config import PublicData, TaskSpec
from privet.common.errors import DataError
from privet.common.sequences import read_tagged
from privet.common.tasks.targets import Targets
from privet.common.tasks.tokens import read_tags, respelled


def load_tagged(data: PublicData, task: TaskSpec) -> tuple[list[str], Targets]:
    """Texts and the array of tags of each, [N] of objects; those without words or with a tag outside the plan are left
    out. Raises: DataError."""
    table = read_tagged(data.source, data.text, data.label, encoding=data.encoding)
    known = {label: index for index, label in enumerate(task.labels)}
    texts = [text or "" for text in table.columns[data.text]]
    cells = [respelled((label or "").strip(), data.label_map) for label in table.columns[data.label]]
    found = [
        (text, tags)
        for text, tags in zip(texts, read_tags(texts, cells, known), strict=True)
        if tags is not None and text.strip()
    ][: data.limit]
    if not found:
        raise DataError(
            "no row has both words and tags of the plan's types.",
            where=f"{data.source}: {data.label}",
            mend="correct server.public.text, .label or .label_map.",
        )
    truth = np.empty(len(found), object)
    for row, (_, tags) in enumerate(found):
        truth[row] = tags
    return [text for text, _ in found], truth
