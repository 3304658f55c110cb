"""Data sets in RACE's format that are not RACE: other numbers of options, other levels or none."""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from components.binarize.core import BinarizeConfig, binarize
from components.common.errors import ConfigError, DataError
from components.download.archive import unpack
from components.download.core import DownloadConfig, download
from components.evaluate.core import EvaluateConfig, evaluate
from components.preprocess.core import PreprocessConfig, preprocess
from components.train.core import TrainConfig, train
from pipeline.sample import INPUTS, make_sample

TINY = {
    "arch": "roberta_base",
    "encoder_layers": 2,
    "encoder_embed_dim": 32,
    "encoder_ffn_embed_dim": 64,
    "encoder_attention_heads": 1,
    "precision": "fp32",
    "effective_batch_size": 8,
    "batch_size": 8,
}


def dataset(folder: Path, options: int) -> Path:
    """A sample, its archives unpacked beside them."""
    make_sample(folder, passages=16, options=options)
    unpack(folder / "RACE.tar.gz", folder)
    unpack(folder / "roberta.tiny.tar.gz", folder)
    return folder


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return dataset(tmp_path_factory.mktemp("three") / "sample", options=3)


def steps(sample: Path, work: Path, options: int, **settings: object) -> dict[str, object]:
    """Run the steps on an unpacked sample; the evaluation's metrics."""
    text, data, model = work / "text", work / "data", work / "model"
    preprocess(PreprocessConfig(sample / "RACE", text, options=options))
    binarize(BinarizeConfig(text, sample / "bpe", data))
    values = {**TINY, "max_updates": 2, **settings}
    train(TrainConfig(data, sample / "roberta.tiny", model, **values))  # type: ignore[arg-type]
    return evaluate(EvaluateConfig(data, model, work / "report", text=text)).metrics


def test_three_options_go_through_every_step_without_a_parameter(
    three: Path, tmp_path: Path
) -> None:
    settings = {name: str(three / file) for name, file in INPUTS.items()}
    settings |= {"train_max_updates": "2", "min_accuracy": "0"}
    command = [sys.executable, "-m", "pipeline", "run", "--config", "smoke", "--name", "three"]
    command += ["--output", str(tmp_path)]
    for name, value in settings.items():
        command += ["-p", f"{name}={value}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr

    run = tmp_path / "three"
    assert {p.name for p in (run / "data").glob("input*")} == {f"input{i}" for i in range(4)}
    training = json.loads((run / "model" / "metrics.json").read_text())
    assert training["options"] == 3
    assert "ln 3 = 1.099 nats" in (run / "model" / "report.html").read_text()
    metrics = json.loads((run / "report" / "metrics.json").read_text())
    assert metrics["chance"] == pytest.approx(100 / 3)
    assert [len(row) for row in metrics["confusion"]] == [3, 3, 3]
    lines = (run / "report" / "predictions.jsonl").read_text().splitlines()
    assert len(lines) == metrics["questions"]
    answers = [json.loads(line) for line in lines]
    assert {len(answer["probabilities"]) for answer in answers} == {3}
    assert {answer["gold"] for answer in answers} == {"A", "B", "C"}
    page = (run / "report" / "report.html").read_text()
    assert "chose C" in page
    assert "chose D" not in page


@pytest.mark.parametrize("engine", ["packed", "stock"])
def test_a_data_set_without_levels_has_one_test_set(tmp_path: Path, engine: str) -> None:
    sample = dataset(tmp_path / "sample", options=4)
    for split in ("train", "dev", "test"):
        for level in ("middle", "high"):
            for path in (sample / "RACE" / split / level).iterdir():
                path.rename(sample / "RACE" / split / path.name)
            (sample / "RACE" / split / level).rmdir()
    metrics = steps(sample, tmp_path, options=4, engine=engine)
    assert sorted(os.listdir(tmp_path / "data" / "label")) == [
        *("test.label", "train.label", "valid.label")
    ]
    assert metrics["questions"] == metrics["questions_test"]
    first = (tmp_path / "text" / "test.id").read_text().splitlines()[0]
    assert first.partition("#")[0].endswith(".txt")
    assert "/" not in first
    report = (tmp_path / "report" / "report.html").read_text()
    assert "Liu et al" not in report
    assert report.count('<th scope="row">all questions</th>') == 1
    assert '<th scope="row">test</th>' not in report
    assert "test, middle" not in (tmp_path / "data" / "report.html").read_text()


def test_other_levels_are_test_sets_in_the_order_of_their_names(
    three: Path, tmp_path: Path
) -> None:
    shutil.copytree(three, tmp_path / "sample")
    for split in ("train", "dev", "test"):
        folder = tmp_path / "sample" / "RACE" / split
        (folder / "middle").rename(folder / "grade 12")
        (folder / "high").rename(folder / "grade 9")
    metrics = steps(tmp_path / "sample", tmp_path, options=3)
    splits = json.loads((tmp_path / "data" / "splits.json").read_text())
    assert splits == {
        "train": "train",
        "dev": "valid",
        "test-grade 9": "test",
        "test-grade 12": "test1",
    }
    assert metrics["questions"] == metrics["questions_grade 9"] + metrics["questions_grade 12"]  # type: ignore[operator]


def test_a_model_answers_a_data_set_with_another_number_of_options(
    three: Path, tmp_path: Path
) -> None:
    steps(three, tmp_path, options=3)
    four = dataset(tmp_path / "four", options=4)
    preprocess(PreprocessConfig(four, tmp_path / "text4"))
    # The words are the same, their numbers are not: this vocabulary is the model's.
    binarize(BinarizeConfig(tmp_path / "text4", three / "bpe", tmp_path / "data4"))
    config = EvaluateConfig(tmp_path / "data4", tmp_path / "model", tmp_path / "report4")
    assert evaluate(config).metrics["chance"] == 25


def test_a_number_of_options_that_is_not_the_datas_is_refused(three: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="question 0 has 3 options, not a list of 4 options"):
        preprocess(PreprocessConfig(three, tmp_path / "text", options=4))


def test_files_beside_the_folders_of_levels_are_refused(three: Path, tmp_path: Path) -> None:
    shutil.copytree(three / "RACE", tmp_path / "RACE")
    (tmp_path / "RACE" / "dev" / "1.txt").write_text("{}")
    with pytest.raises(DataError, match="dev: holds files beside the folders of its levels"):
        preprocess(PreprocessConfig(tmp_path / "RACE", tmp_path / "text", options=3))


@pytest.mark.parametrize("options", [1, 27])
def test_impossible_numbers_of_options_are_refused(tmp_path: Path, options: int) -> None:
    with pytest.raises(ConfigError, match=f"options is {options}"):
        PreprocessConfig(tmp_path, tmp_path / "text", options=options)


def questions(race: Path, level: str) -> dict[str, list[dict[str, object]]]:
    """A level of a data set in RACE's format as one question a row, by split."""
    found: dict[str, list[dict[str, object]]] = {}
    for split in ("train", "dev", "test"):
        for path in sorted((race / split / level).iterdir()):
            passage = json.loads(path.read_text())
            for asked in zip(
                *(passage[n] for n in ("questions", "options", "answers")), strict=True
            ):
                row = dict(zip(("question", "options", "answer"), asked, strict=True))
                row |= {"article": passage["article"], "example_id": f"{level}{path.name}"}
                found.setdefault(split, []).append(row)
    return found


def spreadsheet(path: Path, rows: dict[str, list[dict[str, object]]]) -> Path:
    """A CSV as a German spreadsheet saves it; where A is right there is no C."""
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        table = csv.writer(file, delimiter=";")
        table.writerow(["Split", "Passage", "Question", "A", "B", "C", "Answer"])
        for split, asked in rows.items():
            for row in asked:
                options = list(row["options"])  # type: ignore[call-overload]
                if row["answer"] == "A":
                    options[2] = ""
                article = str(row["article"]).replace(". ", '.\n"', 1)
                table.writerow([split, article, row["question"], *options, row["answer"]])
    return path


@pytest.mark.slow
def test_tables_go_from_the_file_to_accuracy(three: Path, tmp_path: Path) -> None:
    rows = questions(three / "RACE", "middle")
    own = spreadsheet(tmp_path / "own.csv", rows)
    command = [sys.executable, "-m", "pipeline", "run", "--config", "smoke", "--name", "own"]
    command += ["--output", str(tmp_path), "-p", f"race_url={own}", "-p", "train_max_updates=2"]
    for name in ("roberta_url", "bpe_url"):
        command += ["-p", f"{name}={three / INPUTS[name]}"]
    command += ["-p", "min_accuracy=0"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    run = tmp_path / "own"
    counts = (run / "data" / "options" / "test.options").read_text().split()
    assert {*counts} == {"2", "3"}
    lines = (run / "report" / "predictions.jsonl").read_text().splitlines()
    assert [len(json.loads(line)["probabilities"]) for line in lines] == [*map(int, counts)]
    metrics = json.loads((run / "report" / "metrics.json").read_text())
    assert metrics["questions"] == len(rows["test"])
    assert metrics["chance"] == pytest.approx(100 * sum(1 / int(c) for c in counts) / len(counts))
    stock = EvaluateConfig(run / "data", run / "model", tmp_path / "stock", engine="stock")
    with pytest.raises(ConfigError, match="differ in their number of options"):
        evaluate(stock)

    def answered(race: Path, name: str) -> dict[str, object]:
        work = tmp_path / name
        download(DownloadConfig((str(race),), work / "race", pack=True))
        preprocess(PreprocessConfig(work / "race", work / "text"))
        binarize(BinarizeConfig(work / "text", three / "bpe", work / "data"))
        config = EvaluateConfig(work / "data", run / "model", work / "report", text=work / "text")
        return evaluate(config).metrics

    (tmp_path / "jsonl").mkdir()
    for split, asked in rows.items():
        text = "".join(json.dumps(row) + "\n" for row in asked)
        (tmp_path / "jsonl" / f"{split}.jsonl").write_text(text)
    lines_of_json = answered(tmp_path / "jsonl", "of-jsonl")

    dream = [
        [str(row["article"]).split(". "), [{"question": "Who?", "choice": row["options"],
         "answer": row["options"][1]}], "1-2"]  # type: ignore[index]
        for row in rows["test"]
    ]  # fmt: skip
    (tmp_path / "dream").mkdir()
    for split in rows:
        (tmp_path / "dream" / f"{split}.json").write_text(json.dumps(dream))
    assert answered(tmp_path / "dream", "of-dream")["questions"] == len(rows["test"])

    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    for level in ("middle", "high"):
        (tmp_path / "hub" / level).mkdir(parents=True)
        for split, asked in questions(three / "RACE", level).items():
            name = f"{'validation' if split == 'dev' else split}-00000-of-00001.parquet"
            parquet.write_table(pyarrow.Table.from_pylist(asked), tmp_path / "hub" / level / name)
    hub = answered(tmp_path / "hub", "of-parquet")
    assert hub["questions_middle"] == lines_of_json["questions"]
    assert hub["accuracy_middle"] == lines_of_json["accuracy"]
