"""The model card: what the hub reads at its head, and that it names the data truly."""

from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from components.binarize.core import BinarizeConfig, binarize
from components.common.dataset import ORIGIN_FILE, read_origin, write_origin
from components.common.results.metrics import Evaluation, Training
from components.common.results.scores import Group, Scores
from components.download.core import DownloadConfig, download
from components.download.known import NAMES, RACE, ROBERTA_LARGE, SHA256, name_of
from components.export.card import model_card
from components.preprocess.core import PreprocessConfig, preprocess

TASK = {
    "num_classes": 4,
    "init_token": 0,
    "separator_token": 2,
    "max_option_length": 128,
    "max_positions": 512,
}
EVALUATION = Evaluation(
    scores=Scores.together([Group("middle", 1436, 1242), Group("high", 3498, 2844)])
)


def card(dataset: str, base_model: str) -> str:
    training = Training(questions=87_866, dataset=dataset, base_model=base_model)
    return model_card(TASK, 355_000_000, training, EVALUATION)


def validated(text: str, hub: Any) -> ModelCard:
    """The card as huggingface_hub reads it, after it and the hub have found nothing wrong."""
    card = ModelCard(text)
    card.validate()
    again = ModelCard(str(card))
    assert again.data.to_dict() == card.data.to_dict()
    assert "POST /api/validate-yaml" in hub.asked
    return card


def test_the_hub_reads_the_card_of_a_model_trained_on_race(hub: Any) -> None:
    text = card("ehovy/race", "FacebookAI/roberta-large")
    data = validated(text, hub).data
    assert data.base_model == "FacebookAI/roberta-large"
    assert data.datasets == ["ehovy/race"]
    assert (data.license, data.license_name) == ("other", "race-research-only")
    assert data.language == "en"
    results = {(r.dataset_type, r.dataset_config): r.metric_value for r in data.eval_results}
    assert results == {
        ("ehovy/race", "middle"): 86.49,
        ("ehovy/race", "high"): 81.3,
        ("ehovy/race", "all"): 82.81,
    }
    assert "# RoBERTa fine-tuned on RACE\n" in text
    assert "non-commercial research only" in text


@pytest.mark.parametrize(
    ("dataset", "named", "datasets"),
    [
        ("owner/exams", "owner/exams", ["owner/exams"]),
        ("own.zip (sha256 0123456789ab)", "own.zip (sha256 0123456789ab)", None),
        ("", "multiple-choice questions", None),
    ],
)
def test_data_that_are_not_race_are_not_called_so(
    hub: Any, dataset: str, named: str, datasets: list[str] | None
) -> None:
    text = card(dataset, "")
    data = validated(text, hub).data
    assert data.datasets == datasets
    assert data.base_model is None
    assert data.language is None, "nobody knows it"
    assert data.license == "unknown"
    assert f"# RoBERTa fine-tuned on {named}\n" in text
    assert "RACE" not in text
    assert "school" not in text


def test_a_card_without_figures_is_valid_too(hub: Any) -> None:
    assert not validated(model_card(TASK, 1, Training(), Evaluation()), hub).data.metrics


def test_a_name_is_what_the_digest_says(tmp_path: Path) -> None:
    digest = SHA256[RACE]
    assert name_of("https://mirror.example.org/x.tar.gz", digest) == NAMES[RACE] == "ehovy/race"
    assert name_of(RACE, "0" * 64) == "RACE.tar.gz (sha256 000000000000)"
    assert name_of(ROBERTA_LARGE, "0" * 64) == "FacebookAI/roberta-large"


def test_the_name_goes_with_the_data_to_the_model_and_changes_nothing_else(
    sample: Path, tmp_path: Path
) -> None:
    source = str(sample / "RACE.tar.gz")
    done = download(DownloadConfig(url=(source,), output=tmp_path / "race", pack=True))
    name = f"RACE.tar.gz (sha256 {done[0].sha256[:12]})"
    assert read_origin(tmp_path / "race") == name
    made: list[dict[str, bytes]] = []
    for turn in ("with", "without"):
        text, data = tmp_path / turn / "text", tmp_path / turn / "data"
        preprocess(PreprocessConfig(race=tmp_path / "race", output=text))
        binarize(BinarizeConfig(text=text, bpe=sample / "bpe", output=data))
        assert read_origin(text) == read_origin(data) == (name if turn == "with" else "")
        (tmp_path / "race" / ORIGIN_FILE).unlink(missing_ok=True)
        files = [p for p in (tmp_path / turn).rglob("*") if p.is_file() and p.name != ORIGIN_FILE]
        made.append({str(p.relative_to(tmp_path / turn)): p.read_bytes() for p in files})
    assert made[0] == made[1]


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"name": 1}', '{"name": ["a"]}', "\xff"])
def test_a_name_that_is_none_is_not_known(content: str, tmp_path: Path) -> None:
    (tmp_path / ORIGIN_FILE).write_bytes(content.encode("latin-1"))
    assert read_origin(tmp_path) == ""
    write_origin(tmp_path, "other")
    assert (tmp_path / ORIGIN_FILE).read_bytes() == content.encode("latin-1"), "not ours"
