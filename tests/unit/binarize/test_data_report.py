"""What the data report says, held against fairseq's own task."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.binarize.report import write_report
from components.common.errors import DataError
from components.common.lengths import Lengths, lengths
from components.preprocess.core import OFFICIAL, PARTS


def test_lengths_are_those_of_fairseq_s_task(
    tiny_race: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from argparse import Namespace

    from components.train import compat

    compat.import_fairseq()
    from fairseq.tasks.sentence_ranking import SentenceRankingTask

    settings = Namespace(
        data=str(tiny_race.data),
        criterion="sentence_ranking",
        dataset_impl=None,
        num_classes=4,
        init_token=0,
        separator_token=2,
        no_shuffle=True,
        shorten_method="truncate",
        shorten_data_split_list="",
        max_option_length=3,
        max_positions=14,
        seed=1,
    )
    with compat.quiet():
        task = SentenceRankingTask.setup_task(settings)
        task.load_dataset("test")
    dataset = task.dataset("test")
    found = lengths(tiny_race.data, "test", 14, 3)
    assert found.whole.shape == (20, 4)
    for place in range(20):
        item = dataset[place]
        theirs = [len(item[f"net_input{option}.src_tokens"]) for option in range(1, 5)]
        assert np.minimum(found.whole[item["id"]], 14).tolist() == theirs
    assert 0 < found.cut < 1
    assert 0 < found.options_cut < 1


def test_shares_of_what_is_cut() -> None:
    whole = np.array([[512, 513, 1024, 100]])
    found = Lengths(whole, np.array([[128, 129, 130, 1]]))
    assert (found.cut, found.options_cut) == (0.5, 0.5)
    assert found.lost == pytest.approx((1 + 512) / whole.sum())
    empty = np.empty((0, 4), np.int64)
    assert Lengths(empty, empty).cut == Lengths(empty, empty).lost == 0


def summary(text: Path, **changes: Any) -> None:
    counts: dict[str, Any] = {}
    for part in PARTS:
        official = OFFICIAL[part]
        counts.setdefault(part.split, {})[part.level] = {
            "passages": official.passages,
            "questions": official.questions,
        }
    text.mkdir(exist_ok=True)
    (text / "summary.json").write_text(json.dumps({"counts": counts, "skipped": []} | changes))


def test_the_official_counts_are_recognized(tiny_race: Any, tmp_path: Path) -> None:
    summary(tmp_path / "text")
    made = write_report(tmp_path / "text", tiny_race.data, tokens=10, unknown=1)
    assert "exactly as many as RACE’s authors published" in made
    assert made.count("✓") == 7
    summary(tmp_path / "text", skipped=[{"file": "a", "reason": "b"}] * 300)
    made = write_report(tmp_path / "text", tiny_race.data, tokens=10, unknown=1)
    assert "and 100 more, in summary.json" in made


def test_without_a_summary_the_counts_are_left_out(tiny_race: Any, tmp_path: Path) -> None:
    made = write_report(tmp_path, tiny_race.data, tokens=0, unknown=0)
    assert "published" not in made
    assert "168 questions" in made


def test_a_damaged_summary_is_refused(tiny_race: Any, tmp_path: Path) -> None:
    (tmp_path / "summary.json").write_text("[]")
    with pytest.raises(DataError, match="not what preprocess writes"):
        write_report(tmp_path, tiny_race.data, tokens=0, unknown=0)
