"""From words to pieces: who stands for a word, that each is judged once, and what a window's loss weighs."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from privet.common.alignment import NO_WORD, align
from privet.common.examples import INFERENCE_ROWS
from privet.common.model import load_tokenizer
from privet.common.sequences import words_of
from privet.common.tagged import TaggedExamples, tag_examples
from privet.common.tasks.targets import NO_TAG, UNKNOWN
from privet.common.tasks.token_loss import token_loss
from tests.tiny_models import WORDS, Kind, tiny_base

KINDS: tuple[Kind, ...] = ("bert", "roberta", "distilbert")


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("bases")
    return {kind: load_tokenizer(tiny_base(folder / kind, kind)) for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
def test_the_first_piece_of_each_word_stands_for_it(tokenizers: dict[str, Any], kind: Kind) -> None:
    text = "the hearty patient , was-not 9mm  done \u00a0 x"
    found = align([text], tokenizers[kind], 0, 128)
    words = found.words[0]
    places = np.flatnonzero(words != NO_WORD)
    real = [number for number, word in enumerate(words_of(text)) if (word if kind == "roberta" else word.strip())]
    assert words[places].tolist() == real
    pieces = tokenizers[kind].convert_ids_to_tokens(found.ids[0][places].tolist())
    if kind != "roberta":  # byte by byte, a space is a piece of its own
        assert [piece[0] for piece in pieces] == [words_of(text)[number][0] for number in real]


texts = st.lists(st.sampled_from([*WORDS, "x", "unheard", "a-b", ""]), min_size=1, max_size=30)


@settings(deadline=None, max_examples=40)
@given(texts, st.integers(1, 4), st.integers(0, 5))
def test_each_word_is_judged_at_most_once(
    tokenizers: dict[str, Any], words: list[str], windows: int, stride: int
) -> None:
    found = align([" ".join(words)], tokenizers["bert"], 0, 12, windows=windows, stride=stride)
    judged = np.concatenate(found.words)
    judged = judged[judged != NO_WORD]
    assert len(set(judged.tolist())) == len(judged)
    whole = align([" ".join(words)], tokenizers["bert"], 0, 128)
    if len(whole.ids[0]) <= 12:
        assert sorted(judged.tolist()) == sorted(whole.words[0][whole.words[0] != NO_WORD].tolist())
    held = sum(len(row) - 2 for row in found.ids) - stride * (len(found.ids) - 1)  # pieces that some window holds
    reach = whole.words[0][1 : 1 + held]
    assert sorted(judged.tolist()) == sorted(reach[reach != NO_WORD].tolist())


def _examples(tokenizer: Any, text: str, tags: list[int] | None, **settings: int) -> TaggedExamples:
    given_tags = None if tags is None else np.array(tags, np.int16)
    return tag_examples([text], [given_tags], np.zeros(1, np.int64), 1, tokenizer, (12,), **settings)


def test_windows_weigh_as_their_words_do(tokenizers: dict[str, Any]) -> None:
    text = " ".join(["the", "patient", "has", "a", "fever"] * 5)
    tags = [0, 0, 0, 0, 1] * 5
    examples = _examples(tokenizers["bert"], text, tags, windows=4, stride=3)
    windows = np.arange(len(examples.windows.record))
    assert len(windows) == 4
    total = torch.zeros(())
    counted = 0
    logits_of = torch.nn.Embedding(200, 3)
    every: list[torch.Tensor] = []
    for batch in examples.batches(windows):
        logits = logits_of(batch.inputs[0])
        total = total + token_loss(logits, batch.labels, batch.weights).sum() / len(windows)
        mask = batch.labels != NO_TAG
        counted += int(mask.sum())
        every.append(torch.nn.functional.cross_entropy(logits[mask], batch.labels[mask], reduction="none"))
    assert counted == 25
    assert float(total.detach()) == pytest.approx(float(torch.cat(every).mean().detach()), rel=1e-5)


@pytest.mark.parametrize("tags", [None, [0, 0]], ids=["unknown", "fewer than words"])
def test_a_record_without_tags_weighs_nothing(tokenizers: dict[str, Any], tags: list[int] | None) -> None:
    examples = _examples(tokenizers["bert"], "the patient has a fever", tags)
    (batch,) = examples.for_inference()
    logits = torch.randn(INFERENCE_ROWS, 12, 3)
    losses = token_loss(logits, batch.labels, batch.weights)
    assert (examples.labels[0] == UNKNOWN) == (tags is None)
    assert float(losses.sum()) == 0 if tags is None else float(losses.sum()) > 0


class _Lies:
    """A tokenizer that a hostile server chose."""

    pad_token_id = 0

    def __init__(self, spans: Any) -> None:
        self.spans = spans

    def __call__(self, texts: list[str], **_: Any) -> dict[str, Any]:
        return {"input_ids": [[1, 2, 3] for _ in texts], "offset_mapping": [self.spans for _ in texts]}


@pytest.mark.parametrize(
    "spans", [[(0, 1)], [(-1, 2)] * 3, [(0, 10**9)] * 3, [(7, 3)] * 3, "no", [(10**9, 10**9 + 1)] * 3, None]
)
def test_a_lying_tokenizer_fails_nothing(spans: Any) -> None:
    found = align(["the patient", ""], _Lies(spans), 0, 12)
    assert len(found.ids) == 2
    for row, words in zip(found.ids, found.words, strict=True):
        assert len(row) == len(words)
        assert set(words.tolist()) <= {NO_WORD, 0, 1}


def test_a_row_s_loss_does_not_see_the_others() -> None:
    torch.manual_seed(0)
    logits = torch.randn(3, 5, 3, requires_grad=True)
    targets = torch.tensor([[0, 1, NO_TAG, NO_TAG, NO_TAG], [0, 0, 1, 2, 2], [NO_TAG] * 5])

    def gradient(wanted: torch.Tensor) -> torch.Tensor:
        (found,) = torch.autograd.grad(token_loss(logits, wanted, torch.ones(3)).sum(), logits)
        return found[0]

    others = targets.clone()
    others[1] = NO_TAG
    assert torch.equal(gradient(targets), gradient(others))
    assert float(token_loss(logits, targets, torch.ones(3))[2].detach()) == 0
