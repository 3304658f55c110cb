"""The made-up data set, its BPE and its model: formats, determinism, and what they give away."""

import collections
import dataclasses
import io
import itertools
import json
import math
import re
import string
import tarfile
from pathlib import Path
from typing import Any

import pytest

from components.download.archive import unpack
from components.train import checkpoints, compat
from pipeline import cli
from pipeline import sample as made
from pipeline.parameters import load_config, resolve
from pipeline.sample import PHRASES
from pipeline.steps import STEPS

Question = tuple[str, str, list[str], int]  # article, question, options, index of the right one


def passages(dataset: dict[str, str], split: str) -> list[dict[str, Any]]:
    return [json.loads(text) for name, text in dataset.items() if name.startswith(f"{split}/")]


def questions(dataset: dict[str, str], split: str) -> list[Question]:
    return [
        (passage["article"], question, options, "ABCD".index(answer))
        for passage in passages(dataset, split)
        for question, options, answer in zip(
            passage["questions"], passage["options"], passage["answers"], strict=True
        )
    ]


def words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text))


@pytest.fixture(scope="module")
def dataset() -> dict[str, str]:
    return made.make_dataset(seed=1, passages=2000)


@pytest.fixture(scope="module")
def encoder(sample: Path) -> Any:
    utils = compat.import_fairseq("fairseq.data.encoders.gpt2_bpe_utils")
    return utils.get_encoder(str(sample / "bpe/encoder.json"), str(sample / "bpe/vocab.bpe"))


def members(archive: Path) -> dict[str, bytes]:
    with tarfile.open(archive) as opened:
        return {entry.name: opened.extractfile(entry).read() for entry in opened}


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


# The data set


def test_the_same_seed_gives_the_same_bytes(sample: Path, tmp_path: Path) -> None:
    made.make_sample(tmp_path / "again", passages=40)
    made.make_sample(tmp_path / "other", seed=2, passages=40)
    first, again, other = files(sample), files(tmp_path / "again"), files(tmp_path / "other")
    assert again == first
    assert first.keys() == other.keys()
    assert not [name for name in first if first[name] == other[name]]


def test_the_archive_is_laid_out_like_race(sample: Path) -> None:
    found = members(sample / "RACE.tar.gz")
    assert all(re.fullmatch(r"RACE/(train|dev|test)/(middle|high)/\d+\.txt", n) for n in found)
    counts = collections.Counter(name.rpartition("/")[0] for name in found)
    assert counts == {
        f"RACE/{split}/{level}": count
        for split, count in (("train", 20), ("dev", 3), ("test", 3))
        for level in ("middle", "high")
    }


def test_every_passage_is_valid(dataset: dict[str, str]) -> None:
    for name, text in dataset.items():
        passage = json.loads(text)
        assert list(passage) == ["answers", "options", "questions", "article", "id"]
        assert passage["id"] == "".join(name.split("/")[1:])
        assert (
            len(passage["answers"])
            == len(passage["options"])
            == len(passage["questions"])
            == made.FACTS[name.split("/")[1]]
        )
        assert set(passage["answers"]) <= set("ABCD")
        assert all(len(set(options)) == 4 for options in passage["options"])
        filled = [passage["article"], *passage["questions"], *itertools.chain(*passage["options"])]
        assert all(text.strip() == text != "" for text in filled)
        assert not re.search(r"[{}]|  ", " ".join(filled)), "a template was not filled"


def test_passages_are_varied(dataset: dict[str, str]) -> None:
    train = passages(dataset, "train")
    assert len({passage["article"] for passage in train}) > 0.99 * len(train)
    assert 0.2 < sum("\n" in passage["article"] for passage in train) / len(train) < 0.8
    asked = questions(dataset, "train")
    assert 0.4 < sum("_" in question for _, question, _, _ in asked) / len(asked) < 0.6
    length = {level: [] for level in made.FACTS}
    for name, text in dataset.items():
        length[name.split("/")[1]].append(len(json.loads(text)["article"].split()))
    assert sum(length["high"]) > 1.4 * sum(length["middle"])
    assert max(length["high"]) < 100


def test_no_held_out_passage_was_trained_on(dataset: dict[str, str]) -> None:
    trained_on = {passage["article"] for passage in passages(dataset, "train")}
    held_out = passages(dataset, "dev") + passages(dataset, "test")
    assert sum(passage["article"] in trained_on for passage in held_out) == 0


def test_each_letter_is_right_equally_often(dataset: dict[str, str]) -> None:
    for split in ("train", "dev", "test"):
        for level in made.FACTS:
            right = collections.Counter(
                answer
                for name, text in dataset.items()
                if name.startswith(f"{split}/{level}/")
                for answer in json.loads(text)["answers"]
            )
            assert set(right) == set("ABCD")
            assert max(right.values()) - min(right.values()) <= 1


# What the data set gives away


def test_the_passage_names_the_right_option_and_no_other(dataset: dict[str, str]) -> None:
    answers = {word for topic in PHRASES["topics"] for word in topic["words"]}
    for split in ("train", "dev", "test"):
        for article, _, options, right in questions(dataset, split):
            named = [bool(words(option) & answers & words(article)) for option in options]
            assert named == [i == right for i in range(4)]


def test_an_answers_word_stands_nowhere_else_in_the_phrases() -> None:
    answers = [word for topic in PHRASES["topics"] for word in topic["words"]]
    assert len(set(answers)) == len(answers)
    templates = [
        *(text for topic in PHRASES["topics"] for fact in topic["facts"] for text in fact),
        *(topic["option"] for topic in PHRASES["topics"]),
        *itertools.chain(*(PHRASES[name] for name in ("openings", "asides", "closings"))),
        *itertools.chain(*PHRASES["people"]),
    ]
    found = set().union(*map(words, templates))
    assert not {word.lower() for word in answers} & {word.lower() for word in found}


def test_every_statement_and_option_names_the_answer() -> None:
    def fields(template: str) -> list[str | None]:
        return [field for _, field, _, _ in string.Formatter().parse(template)]

    for topic in PHRASES["topics"]:
        assert fields(topic["option"]).count("x") == 1
        for statement, question, cloze in topic["facts"]:
            assert fields(statement).count("x") == 1
            assert cloze.count("_") == 1
            assert "_" not in question
            assert "x" not in fields(cloze) + fields(question)


def test_question_and_options_alone_leave_the_answer_to_chance() -> None:
    """A naive Bayes classifier over all that is seen without the passage learns nothing.

    Its clues: the position, each option, each option by position, and what it stands beside.
    """

    def clues(question: str, options: list[str], i: int) -> list[Any]:
        frame = question.split(" ", 1)[-1]
        return [
            i,
            options[i],
            (i, options[i]),
            (frame, options[i]),
            *((options[i], other) for other in options if other != options[i]),
            (options[i], sorted(options).index(options[i])),
        ]

    right: collections.Counter[Any] = collections.Counter()
    seen: collections.Counter[Any] = collections.Counter()
    for _, question, options, answer in questions(made.make_dataset(1, 2000), "train"):
        for i in range(4):
            seen.update(clues(question, options, i))
        right.update(clues(question, options, answer))

    def score(question: str, options: list[str], i: int) -> float:
        return sum(math.log((right[c] + 1) / (seen[c] + 4)) for c in clues(question, options, i))

    unseen = questions(made.make_dataset(2, 2000), "train")
    correct = sum(
        answer == max(range(4), key=lambda i, q=question, o=options: score(q, o, i))
        for _, question, options, answer in unseen
    )
    deviation = math.sqrt(0.25 * 0.75 / len(unseen))
    assert abs(correct / len(unseen) - 0.25) < 4 * deviation


# The BPE


def test_fairseqs_encoder_makes_one_token_of_each_word(sample: Path, encoder: Any) -> None:
    texts = [
        text
        for content in members(sample / "RACE.tar.gz").values()
        for passage in [json.loads(content)]
        for text in (
            passage["article"].replace("\n", " "),
            *(
                question.replace("_", option) if "_" in question else f"{question} {option}"
                for question, options in zip(passage["questions"], passage["options"], strict=True)
                for option in options
            ),
        )
    ]
    for text in texts:
        tokens = encoder.encode(text)
        assert encoder.decode(tokens) == text
        assert len(tokens) == len(encoder.re.findall(encoder.pat, text))


@pytest.mark.parametrize(
    "text", ["", "\0\t\n", "naïve café", "日本語", "👩‍👩‍👧", "<|endoftext|>", "_"]
)
def test_any_text_can_be_encoded(encoder: Any, text: str) -> None:
    assert encoder.decode(encoder.encode(text)) == text


def test_the_vocabulary_has_gpt2s_format(sample: Path) -> None:
    utils = compat.import_fairseq("fairseq.data.encoders.gpt2_bpe_utils")
    symbols = json.loads((sample / "bpe/encoder.json").read_text())
    lines = (sample / "bpe/vocab.bpe").read_text(encoding="utf-8").split("\n")
    assert lines[0] == "#version: 0.2"
    assert lines[-1] == ""
    merged = [line.replace(" ", "") for line in lines[1:-1]]
    assert list(symbols) == [*utils.bytes_to_unicode().values(), *merged, "<|endoftext|>"]
    assert list(symbols.values()) == list(range(len(symbols)))


def test_fairseqs_dictionary_knows_every_symbol(sample: Path) -> None:
    path = sample / "bpe/dict.txt"
    symbols = json.loads((sample / "bpe/encoder.json").read_text())
    dictionary = compat.import_fairseq("fairseq.data").Dictionary.load(str(path))
    assert len(dictionary) == len(symbols) + 4
    assert all(dictionary.index(str(i)) != dictionary.unk() for i in symbols.values())
    counts = [int(line.split()[1]) for line in path.read_text().splitlines()]
    assert counts == sorted(counts, reverse=True)
    assert counts[0] > 0


def test_merges_take_the_most_frequent_pair_first() -> None:
    pieces = collections.Counter({"abc": 3, "bc": 1, "aaa": 2})
    # "b c" 4 times, "a a" 4, then what they leave; ties go to the smaller pair.
    assert made.learn_merges(pieces) == [("a", "a"), ("b", "c"), ("a", "bc"), ("aa", "a")]


# The model


@pytest.fixture(scope="module")
def pretrained(sample: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pretrained")
    unpack(sample / "roberta.tiny.tar.gz", folder)
    return folder / "roberta.tiny"


def test_stock_fairseq_loads_every_weight(sample: Path, pretrained: Path) -> None:
    compat.import_fairseq()
    import torch
    from fairseq import checkpoint_utils
    from fairseq.data import Dictionary
    from fairseq.models.roberta import RobertaModel

    assert (pretrained / "dict.txt").read_bytes() == (sample / "bpe/dict.txt").read_bytes()
    with checkpoints.safe_types_allowed(), compat.quiet():
        state = checkpoint_utils.load_checkpoint_to_cpu(str(pretrained / "model.pt"))
    dictionary = Dictionary.load(str(pretrained / "dict.txt"))
    dictionary.add_symbol("<mask>")

    class Task:
        source_dictionary = dictionary

    model = RobertaModel.build_model(state["args"], Task())
    weights = {name: p for name, p in model.named_parameters() if name.endswith("weight")}
    with torch.no_grad():
        for weight in weights.values():
            weight.fill_(math.nan)
    with compat.quiet():
        model.load_state_dict(state["model"], strict=True)
    assert [name for name, weight in weights.items() if weight.isnan().any()] == []
    layer = model.encoder.sentence_encoder.layers[0].self_attn
    assert torch.equal(layer.q_proj.weight, layer.k_proj.weight)
    assert not torch.equal(layer.q_proj.weight, layer.v_proj.weight)


def test_the_model_has_the_shape_and_the_dictionary_asked_for(tmp_path: Path) -> None:
    dictionary = tmp_path / "dict.txt"
    dictionary.write_text("".join(f"{i} {100 - i}\n" for i in range(100)))
    shape = made.Shape(3, 16, 24, 2, 40)
    made.make_sample(tmp_path / "made", passages=2, shape=shape, dictionary=dictionary)
    found = members(tmp_path / "made/roberta.tiny.tar.gz")
    assert found.keys() == {"roberta.tiny/model.pt", "roberta.tiny/dict.txt"}
    assert found["roberta.tiny/dict.txt"] == dictionary.read_bytes()
    import torch

    with checkpoints.safe_types_allowed():
        state = torch.load(io.BytesIO(found["roberta.tiny/model.pt"]), weights_only=True)
    assert vars(state["args"]).items() >= dataclasses.asdict(shape).items()
    encoder = "decoder.sentence_encoder"
    assert state["model"][f"{encoder}.embed_tokens.weight"].shape == (105, 16)
    assert state["model"][f"{encoder}.embed_positions.weight"].shape == (42, 16)
    assert state["model"][f"{encoder}.layers.2.self_attn.in_proj_weight"].shape == (48, 16)
    assert state["model"][f"{encoder}.layers.2.fc1.weight"].shape == (24, 16)
    assert f"{encoder}.layers.3.fc1.weight" not in state["model"]


def test_the_smoke_config_has_the_recommended_settings() -> None:
    recommended = dataclasses.asdict(made.TINY)
    values = resolve(load_config("smoke"), {})
    names = {name: STEPS["train"].given.get(name, f"train_{name}") for name in recommended}
    assert {name: values[names[name]] for name in recommended} == recommended


@pytest.mark.parametrize("options", [2, made.MOST_OPTIONS])
def test_questions_have_as_many_options_as_asked_for_and_each_is_right_equally_often(
    options: int,
) -> None:
    dataset = [json.loads(text) for text in made.make_dataset(1, 200, options).values()]
    assert {len(choices) for passage in dataset for choices in passage["options"]} == {options}
    right = collections.Counter(answer for passage in dataset for answer in passage["answers"])
    assert sorted(right) == list("ABCDEFG"[:options])
    assert max(right.values()) - min(right.values()) <= 6  # one in each level of each split


@pytest.mark.parametrize("options", ["1", "8"])
def test_a_sample_with_an_impossible_number_of_options_is_refused(
    options: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert made.MOST_OPTIONS == 7
    status = cli.main(["sample", "--output", str(tmp_path / "sample"), "--options", options])
    assert status == 2
    assert f"--options {options}: give 2 to 7" in capsys.readouterr().err
    assert not (tmp_path / "sample").exists()
