import hashlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.common.errors import ConfigError, DataError
from components.evaluate.__main__ import main
from components.evaluate.core import EvaluateConfig, evaluate
from components.evaluate.model import batches as batches_of


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def output(tiny_race: Any, trained: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("evaluated") / "evaluation"
    evaluate(EvaluateConfig(tiny_race.data, trained.together, output))
    return output


@pytest.mark.parametrize(("split", "level"), [("test", "middle"), ("test1", "high")])
def test_accuracy_and_predictions_are_those_of_fairseq_validate(
    tiny_race: Any, trained: Any, output: Path, tmp_path: Path, split: str, level: str
) -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "components.train.compat", "fairseq-validate"),
            *(str(tiny_race.data), "--path", str(trained.together / "checkpoint_best.pt")),
            *("--valid-subset", split, "--save-predictions", str(tmp_path / "theirs")),
            *("--task", "sentence_ranking", "--criterion", "sentence_ranking"),
            *("--batch-size", "1", "--cpu", "--log-format", "json"),
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    theirs = {}
    for line in (tmp_path / "theirs").read_text().splitlines():
        number, predicted, gold = line.split("\t")
        theirs[f"{split}/{number}#0"] = ("ABCD"[int(predicted)], "ABCD"[int(gold)])
    ours = {
        p["id"]: (p["predicted"], p["gold"])
        for p in lines(output / "predictions.jsonl")
        if p["id"].startswith(f"{split}/")
    }
    assert ours == theirs
    assert len(set(ours.values())) > 4, "the model must not give the same answer to everything"
    printed = re.search(rf'"{split}_accuracy": "([\d.]+)"', done.stdout)
    assert printed is not None
    metrics = json.loads((output / "metrics.json").read_text())
    assert metrics[f"accuracy_{level}"] == pytest.approx(float(printed[1]), abs=0.05)
    right = sum(predicted == gold for predicted, gold in theirs.values())
    assert metrics[f"accuracy_{level}"] == 100 * right / len(theirs)
    assert metrics[f"correct_{level}"] == right


def test_predictions_are_in_the_order_of_the_data_set(output: Path) -> None:
    predictions = lines(output / "predictions.jsonl")
    expected = [f"test/{n}#0" for n in range(20)] + [f"test1/{n}#0" for n in range(28)]
    assert [p["id"] for p in predictions] == expected
    for p in predictions:
        assert sum(p["probabilities"]) == pytest.approx(1, abs=1e-5)
        assert p["predicted"] == "ABCD"[int(np.argmax(p["probabilities"]))]
    assert sorted(path.name for path in output.iterdir()) == [
        "metrics.json",
        "predictions.jsonl",
        "report.html",
    ]


def test_the_size_of_the_batches_does_not_matter(
    tiny_race: Any, trained: Any, output: Path, tmp_path: Path
) -> None:
    evaluate(EvaluateConfig(tiny_race.data, trained.together, tmp_path / "out", batch_tokens=1))
    one_by_one, batched = (lines(o / "predictions.jsonl") for o in (tmp_path / "out", output))
    for one, other in zip(one_by_one, batched, strict=True):
        assert one["predicted"] == other["predicted"]
        assert one["probabilities"] == pytest.approx(other["probabilities"], abs=2e-6)


def test_both_engines_give_the_same_probabilities(
    tiny_race: Any, trained: Any, output: Path, tmp_path: Path
) -> None:
    """`output` is the packed engine's."""
    config = EvaluateConfig(tiny_race.data, trained.together, tmp_path / "out", engine="stock")
    evaluate(config)
    stock, packed = (lines(o / "predictions.jsonl") for o in (tmp_path / "out", output))
    for one, other in zip(stock, packed, strict=True):
        assert one["predicted"] == other["predicted"]
        assert one["probabilities"] == pytest.approx(other["probabilities"], abs=2e-6)


def test_an_evaluation_knows_its_training_and_the_questions_of_dev(
    tiny_race: Any, trained: Any, output: Path
) -> None:
    metrics = json.loads((output / "metrics.json").read_text())
    content = (trained.together / "metrics.json").read_bytes()
    assert metrics["training"] == hashlib.sha256(content).hexdigest()
    labels = (tiny_race.data / "label" / "valid.label").read_text().splitlines()
    assert metrics["validation_questions"] == len(labels)


def test_an_evaluation_has_the_baselines_beside_chance(tiny_race: Any, output: Path) -> None:
    def labels(split: str) -> list[int]:
        return [int(n) for n in (tiny_race.data / "label" / f"{split}.label").read_text().split()]

    train, tests = labels("train"), labels("test") + labels("test1")
    letter = max(range(4), key=train.count)
    found = json.loads((output / "metrics.json").read_text())["baselines"]
    name = f"always {'ABCD'[letter]}"
    assert found[name] == pytest.approx(100 * tests.count(letter) / len(tests))
    assert f"Without reading: {name} {found[name]:.1f}" in (output / "report.html").read_text()


def test_of_a_training_that_collapsed_it_says_that_there_is_nothing_to_evaluate(
    tiny_race: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "metrics.json").write_text('{"collapsed": "the <loss> is still 1.386"}')
    config = EvaluateConfig(tiny_race.data, tmp_path / "model", tmp_path / "out")
    evaluation = evaluate(config)
    assert not evaluation.scores.groups
    assert evaluation.metrics["absent"] == "the <loss> is still 1.386"
    assert "nothing to evaluate: the <loss> is still 1.386" in capsys.readouterr().out
    assert sorted(p.name for p in config.output.iterdir()) == ["metrics.json", "report.html"]
    metrics = json.loads((config.output / "metrics.json").read_text())
    assert metrics["chance"] == 25
    assert "accuracy" not in metrics
    page = (config.output / "report.html").read_text()
    assert "marked as collapsed, and left no model: the &lt;loss&gt; is still 1.386." in page


def test_a_model_that_is_missing_for_no_reason_is_refused(tiny_race: Any, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "metrics.json").write_text('{"collapsed": ""}')
    with pytest.raises(DataError, match="checkpoint_best"):
        evaluate(EvaluateConfig(tiny_race.data, tmp_path / "model", tmp_path / "out"))


def test_batches_hold_every_question_once_and_keep_their_limit() -> None:
    sizes = np.random.default_rng(1).integers(1, 100, size=500)
    batches = list(batches_of(sizes, 1000))
    assert sorted(i for batch in batches for i in batch) == list(range(500))
    for batch in batches:
        assert len(batch) * sizes[batch].max() <= 1000
    assert all(len(batch) == 1 for batch in batches_of(sizes, 1))


def changed(data: Path, folder: Path) -> Path:
    return Path(shutil.copytree(data, folder / "data"))


def test_a_data_set_with_another_dictionary_is_refused(
    tiny_race: Any, trained: Any, tmp_path: Path
) -> None:
    data = changed(tiny_race.data, tmp_path)
    with (data / "input0" / "dict.txt").open("a") as dictionary:
        dictionary.write("more 1\n")
    with pytest.raises(DataError, match=r"data and .*: were made with different dict\.txt"):
        evaluate(EvaluateConfig(data, trained.together, tmp_path / "out"))
    alone = tmp_path / "model.pt"  # nothing is known of its vocabulary but the size
    alone.hardlink_to(trained.together / "checkpoint_best.pt")
    with pytest.raises(DataError, match=r"knows 65 tokens, but the dictionary .* has 66"):
        evaluate(EvaluateConfig(data, alone, tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_labels_that_are_not_as_many_as_questions_are_refused(
    tiny_race: Any, trained: Any, tmp_path: Path
) -> None:
    data = changed(tiny_race.data, tmp_path)
    (data / "label" / "test1.label").write_text("0\n1\n")
    with pytest.raises(DataError, match=r"holds 28 sequences, but .* holds 2 labels"):
        evaluate(EvaluateConfig(data, trained.together, tmp_path / "out"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data"]


def test_the_pretrained_checkpoint_is_refused(tiny_race: Any, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has no head that ranks options \(none at all\)"):
        evaluate(EvaluateConfig(tiny_race.data, tiny_race.pretrained, tmp_path / "out"))


def test_what_cannot_be_right_is_refused() -> None:
    with pytest.raises(ConfigError, match="batch_tokens is 0"):
        EvaluateConfig(Path("data"), Path("model"), Path("out"), batch_tokens=0)


def test_the_command_line_knows_the_parameters(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="x: holds no inputs"):
        main(["--data", "x", "--model", str(tmp_path), "--output", str(tmp_path / "out")])
