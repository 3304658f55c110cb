"""Data, a BPE and a model that do not belong together are refused wherever two of them meet."""

import dataclasses
import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from components.binarize.bpe import read_bpe
from components.binarize.core import BinarizeConfig, binarize
from components.common.errors import DataError
from components.common.vocabulary import Vocabulary, read_vocabulary, require_same

FILES = ("encoder.json", "vocab.bpe", "dict.txt")


@pytest.fixture(scope="module")
def data(tiny_bpe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two questions a split, of four options, binarized with the small BPE."""
    folder = tmp_path_factory.mktemp("binarized")
    (folder / "text").mkdir()
    for split in ("train", "dev", "test"):
        for column in range(5):
            (folder / "text" / f"{split}.input{column}").write_text("one\nthe other\n")
        (folder / "text" / f"{split}.label").write_text("3\n0\n")
        (folder / "text" / f"{split}.id").write_text("a\nb\n")
    binarize(BinarizeConfig(folder / "text", tiny_bpe, folder / "data"))
    return folder / "data"


def permute_dictionary(bpe: Path) -> None:
    lines = (bpe / "dict.txt").read_text().splitlines(keepends=True)
    (bpe / "dict.txt").write_text("".join([*lines[1:], lines[0]]))


def permute_ids(bpe: Path) -> None:
    pieces = json.loads((bpe / "encoder.json").read_text())
    pieces["a"], pieces["e"] = pieces["e"], pieces["a"]
    (bpe / "encoder.json").write_text(json.dumps(pieces))


def permute_merges(bpe: Path) -> None:
    lines = (bpe / "vocab.bpe").read_text().splitlines(keepends=True)
    assert lines[3:5] == ["a n\n", "i n\n"]
    (bpe / "vocab.bpe").write_text("".join([*lines[:3], lines[4], lines[3], *lines[5:]]))


OTHERS = {
    "dict.txt": permute_dictionary,
    "encoder.json": permute_ids,
    "vocab.bpe": permute_merges,
}


@pytest.fixture(params=OTHERS)
def other(request: pytest.FixtureRequest, tiny_bpe: Path, tmp_path: Path) -> tuple[str, Path]:
    """One of the three files, and a BPE of the same size that differs in it and is whole itself."""
    bpe = Path(shutil.copytree(tiny_bpe, tmp_path / "other"))
    OTHERS[request.param](bpe)
    read_bpe(bpe).require_complete()
    return request.param, bpe


def in_training(data: Path, bpe: Path, other: Path, work: Path) -> None:
    from components.train.core import TrainConfig, train
    from pipeline.sample import TINY, make_checkpoint

    symbols = (bpe / "dict.txt").read_text().count("\n")
    (other / "model.pt").write_bytes(make_checkpoint(symbols, 1))  # as `race import` leaves it
    size = dataclasses.asdict(TINY) | {"arch": "roberta_base", "precision": "fp32"}
    train(TrainConfig(data, other, work / "out", effective_batch_size=2, **size))  # type: ignore[arg-type]


def trained(vocabulary: Vocabulary, work: Path) -> Path:
    """A model's folder as far as it is read before the checkpoint."""
    (work / "model").mkdir()
    (work / "model" / "checkpoint_best.pt").touch()
    vocabulary.write(work / "model")
    return work / "model"


def in_evaluation(data: Path, bpe: Path, other: Path, work: Path) -> None:
    from components.evaluate.core import EvaluateConfig, evaluate

    evaluate(EvaluateConfig(data, trained(read_vocabulary(other), work), work / "out"))


def in_prediction(data: Path, bpe: Path, other: Path, work: Path) -> None:
    from components.predict.core import PredictConfig, predict

    model = trained(read_vocabulary(data), work)
    predict(PredictConfig(model, bpe=other, passage="a", question="b", option=("c", "d", "e", "f")))


def in_export(data: Path, bpe: Path, other: Path, work: Path) -> None:
    from components.export.core import ExportConfig, export

    export(ExportConfig(trained(read_vocabulary(data), work), work / "out", bpe=other))


@pytest.mark.parametrize("meet", [in_training, in_evaluation, in_prediction, in_export])
def test_what_does_not_belong_together_is_refused_where_it_meets(
    data: Path,
    tiny_bpe: Path,
    other: tuple[str, Path],
    tmp_path: Path,
    meet: Callable[[Path, Path, Path, Path], None],
) -> None:
    name, bpe = other
    with pytest.raises(DataError, match=rf"/.* and /.*: were made with different {name} "):
        meet(data, tiny_bpe, bpe, tmp_path)
    assert not (tmp_path / "out").exists()


def test_a_dictionary_that_was_exchanged_in_the_data_is_found(data: Path, tmp_path: Path) -> None:
    shutil.copytree(data, tmp_path / "data")
    permute_dictionary(tmp_path / "data" / "input0")
    with pytest.raises(DataError, match=r"data and .*vocabulary.json: .* different dict.txt"):
        read_vocabulary(tmp_path / "data")


def test_only_what_a_file_means_counts(data: Path, tiny_bpe: Path, tmp_path: Path) -> None:
    bpe = Path(shutil.copytree(tiny_bpe, tmp_path / "bpe"))
    pieces = json.loads((bpe / "encoder.json").read_text())
    turned = dict(reversed(pieces.items()))
    (bpe / "encoder.json").write_text(json.dumps(turned, ensure_ascii=False, indent=1))
    lines = [line.split()[0] for line in (bpe / "dict.txt").read_text().splitlines()]
    (bpe / "dict.txt").write_text("".join(f"{symbol} 0\r\n" for symbol in lines))
    merges = (bpe / "vocab.bpe").read_text()
    (bpe / "vocab.bpe").write_text(merges.replace("#version: 0.2", "merges"))
    assert require_same(read_vocabulary(data), read_bpe(bpe).vocabulary)


@pytest.mark.parametrize(
    ("left", "unknown"),
    [((), "encoder.json, vocab.bpe, dict.txt"), (("dict.txt",), "encoder.json, vocab.bpe")],
)
@pytest.mark.parametrize("turned", [False, True])
def test_what_is_not_known_is_not_refused_but_said(
    data: Path,
    tiny_bpe: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    left: tuple[str, ...],
    unknown: str,
    turned: bool,
) -> None:
    """A checkpoint from elsewhere, the published RoBERTa, data of version 0.1.0."""
    for name in left:
        shutil.copyfile(tiny_bpe / name, tmp_path / name)
    sides = [read_vocabulary(data), read_vocabulary(tmp_path)]
    with caplog.at_level(logging.INFO):
        assert not require_same(*reversed(sides) if turned else sides)
    assert caplog.messages == [
        f"{tmp_path}: has no digests of its {unknown}; not checked whether {data} has the same"
    ]


@pytest.mark.parametrize(
    "content", ["", "[]", '{"dict.txt": 1}', '{"dict.txt": "x"}', "[" * 100_000, '{"a": null}']
)
def test_a_damaged_record_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "vocabulary.json").write_text(content)
    with pytest.raises(DataError, match=r"vocabulary.json: (damaged|not JSON|not a JSON object)"):
        read_vocabulary(tmp_path)


def test_the_record_of_the_published_files_is_of_all_three(shared_data: Path) -> None:
    bpe = read_bpe(shared_data)
    bpe.require_complete()
    assert tuple(bpe.vocabulary.digests) == FILES
    assert bpe.vocabulary == read_vocabulary(shared_data)


def test_training_goes_on_from_a_checkpoint_of_the_same_vocabulary_or_an_unknown_one() -> None:
    from components.common.manifest import Manifest
    from components.train.supervisor.provenance import Provenance

    ours = Provenance({}, lambda: {"data": "1", "encoder.json": "2"})

    def differences(**inputs: Any) -> list[str]:
        return ours.differences(Manifest((), "", "", {}, {"data": "1"} | inputs))

    assert differences() == differences(**{"encoder.json": "2"}) == []
    assert differences(**{"encoder.json": "3"}) == ["encoder.json is 2, the checkpoint's is 3"]


def test_training_goes_on_from_a_checkpoint_that_calls_the_batch_as_0_1_0_did() -> None:
    from components.common.manifest import Manifest
    from components.train.supervisor.provenance import Provenance

    ours = Provenance({"parameters.effective_batch_size": 16}, dict)
    former = "parameters.effective_batch"
    assert ours.differences(Manifest((), "", "", {former: 16}, {})) == []
    assert ours.differences(Manifest((), "", "", {former: 8}, {})) == [
        "effective_batch_size is 16, the checkpoint's is 8"
    ]
