import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

from components.common.cli import run_step
from components.common.errors import ConfigError, DataError
from components.common.vocabulary import read_vocabulary
from components.evaluate.trained import find_trained
from components.predict.__main__ import main
from components.predict.core import PredictConfig, Reader, predict
from components.predict.questions import parse_line, read_chunks
from components.preprocess.passage import InvalidPassage


def answers(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_files(run: Path) -> list[Path]:
    """The files of the test questions in the order of the data set."""
    return [
        path
        for level in ("middle", "high")
        for path in sorted(
            (run / "race" / "RACE" / "test" / level).iterdir(), key=lambda p: int(p.stem)
        )
    ]


test_files.__test__ = False  # type: ignore[attr-defined]


def test_answers_are_those_of_evaluate(
    answering: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    questions = tmp_path / "questions.jsonl"
    # Options and all as they come from a stranger: over other line ends, and a question at a time.
    with questions.open("w") as file:
        for path in test_files(answering):
            passage = json.loads(path.read_text())
            for question, options, answer in zip(
                passage["questions"], passage["options"], passage["answers"], strict=True
            ):
                one = {"article": passage["article"], "question": question, "options": options}
                file.write(json.dumps({**one, "answer": answer}) + "\r\n")
    predict(PredictConfig(answering, input=questions, batch_tokens=500))
    ours = answers(capsys.readouterr().out)
    theirs = answers((answering / "report" / "predictions.jsonl").read_text())
    assert len(ours) == len(theirs) > 20
    assert len({answer["predicted"] for answer in theirs}) > 1
    for number, (one, other) in enumerate(zip(ours, theirs, strict=True), start=1):
        assert one["line"] == number
        assert one["predicted"] == other["predicted"]
        assert one["gold"] == other["gold"]
        assert one["correct"] == (other["gold"] == other["predicted"])
        assert one["probabilities"] == pytest.approx(other["probabilities"], abs=2e-6)


def test_a_race_file_is_answered_whether_on_one_line_or_over_many(
    answering: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    passage = json.loads(test_files(answering)[0].read_text())
    spread = tmp_path / "spread.json"
    spread.write_text(json.dumps(passage, indent=2))
    predict(PredictConfig(answering, input=test_files(answering)[0]))
    predict(PredictConfig(answering / "model", bpe=answering / "bpe", input=spread))
    found = answers(capsys.readouterr().out)
    asked = len(passage["questions"])
    assert found[:asked] == found[asked:]
    assert [a["id"] for a in found[:asked]] == [f"{passage['id']}#{n}" for n in range(asked)]
    assert [a["gold"] for a in found[:asked]] == passage["answers"]
    for place, answer in enumerate(found[:asked]):
        assert answer["text"] == passage["options"][place]["ABCD".index(answer["predicted"])]


NOT_ANSWERS = ["E", "1", "", "AB", " A", "Cat", -1, 4, 2.0, True, False, ["A"], {"a": 1}]
GOOD = {"article": "Ann has a cat.", "question": "Ann has a _.", "options": list("abcd")}


def test_bad_lines_are_named_and_the_others_answered(answering: Path, tmp_path: Path) -> None:
    lines = [
        json.dumps({**GOOD, "id": "first"}).encode(),
        b"nonsense",
        b"",
        b'{"article": "\xff"}',
        json.dumps({**GOOD, "options": ["a"]}).encode(),
        json.dumps({**GOOD, "answer": "E"}).encode(),
        json.dumps({**GOOD, "article": "\ud800"}).encode(),
        b"[" * 100_000,
        json.dumps([GOOD]).encode(),
        json.dumps({**GOOD, "question": 1}).encode(),
        json.dumps({"id": 3}).encode(),
        json.dumps(GOOD).encode(),
    ]
    done = subprocess.run(
        [sys.executable, "-m", "components.predict", "--model", str(answering)],
        input=b"\n".join(lines),
        capture_output=True,
    )
    assert done.returncode == DataError.exit_status
    assert [(a["line"], a["id"]) for a in answers(done.stdout.decode())] == [
        (1, "first"),
        (12, "12"),
    ]
    said = done.stderr.decode().splitlines()
    for number, why in (
        (2, "not JSON"),
        (4, "not UTF-8"),
        (5, "question 0 has 1 options, not 2 to 26"),
        (6, "the answer of question 0 is 'E', not A, B, C or D"),
        (7, "half of a surrogate pair"),
        (8, "JSON nested too deeply"),
        (9, "a list where an object is wanted"),
        (10, "question 0 is a number, not a string"),
        (11, "article is missing"),
    ):
        assert any(line.startswith(f"line {number}: {why}") for line in said), said
    assert "answered 2 questions" in said
    assert said[-1].startswith("error: 9 lines could not be answered, the first is line 2.")


@pytest.mark.parametrize(
    ("given", "gold"),
    [
        ({}, None),
        ({"answer": None, "answers": None, "label": None}, None),
        ({"answers": [None]}, None),
        *(({name: "C"}, 2) for name in ("answer", "answers", "label")),
        *(({name: ["c"]}, 2) for name in ("answer", "answers", "label")),
        *(({name: 2}, 2) for name in ("answer", "answers", "label")),
        ({"answers": [0]}, 0),
        ({"answer": "hen"}, 3),
        ({"answer": "D", "answers": ["d"], "label": 3}, 3),
        ({"options": ["A", "1", "C", "c"], "answer": "A"}, 0),
        ({"options": ["A", "1", "C", "c"], "answer": "1"}, 1),
        # What a RACE file holds.
        ({"questions": ["q"], "options": [list("DCBA")], "answers": ["A"]}, 0),
        ({"questions": ["q"], "options": [list("abcd")]}, None),
        ({"questions": ["q"], "options": [list("abcd")], "answer": "B"}, 1),
        ({"questions": ["q"], "options": [list("abcd")], "label": [1], "answers": [None]}, 1),
    ],
)
def test_the_right_answer_is_what_the_line_says(given: dict[str, Any], gold: int | None) -> None:
    question = {} if "questions" in given else {"question": "q"}
    line = {"article": "a", "options": ["dog", "cat", "cow", "hen"], **question, **given}
    assert [one.gold for one in parse_line(1, json.dumps(line).encode(), 4)] == [gold]


@pytest.mark.parametrize(
    ("given", "why"),
    [
        *(({"answers": [value]}, "the answer of question 0 is") for value in NOT_ANSWERS),
        *(({"label": value}, "the answer of question 0 is") for value in NOT_ANSWERS[:-2]),
        ({"label": [["A"]]}, "the answer of question 0 is"),
        ({"answers": []}, "answers: 0 answers for 1 questions"),
        ({"answers": ["A", "A"]}, "answers: 2 answers for 1 questions"),
        ({"answer": "A", "label": 1}, "contradict"),
        ({"answer": "cat", "answers": ["A"]}, "contradict"),
        ({"options": list("BACD"), "answer": "A"}, "means several options"),
        ({"options": list("xxyz"), "answer": "x"}, "means several options"),
        ({"questions": ["q", "r"], "options": [list("abcd")] * 2, "answers": "A"}, "1 answers for"),
        ({"questions": ["q"], "options": [list("abcd")], "answers": ["E"]}, "not A, B, C or D"),
    ],
)
def test_a_right_answer_that_is_not_understood_is_not_made_up(
    given: dict[str, Any], why: str
) -> None:
    question = {} if "questions" in given else {"question": "q"}
    line = {"article": "a", "options": ["dog", "cat", "cow", "hen"], **question, **given}
    with pytest.raises(InvalidPassage, match=why):
        parse_line(1, json.dumps(line).encode(), 4)


def test_text_that_would_grow_beyond_measure_is_refused_before_it_grows() -> None:
    many = {"article": "a" * 10**6, "questions": [""] * 100, "options": [["a", "b"]] * 100}
    for line in ({**GOOD, "question": "_" * 10**6, "options": ["a" * 5 * 10**5] * 4}, many):
        with pytest.raises(InvalidPassage, match=r" characters to read, more than 67,108,864$"):
            parse_line(1, json.dumps(line).encode(), 4)


def test_an_answer_says_that_its_text_was_shortened(
    answering: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reader = Reader(find_trained(answering), "fp32")
    most, lengths = reader.model.settings.max_positions, []
    for words in range(1, most):
        line = {**GOOD, "article": "Ann has a" + " cat" * words}
        (read,) = reader.read(parse_line(1, json.dumps(line).encode(), 4))
        lengths.append(max(map(len, read.sequences)))
        whole = lengths[0] + (words - 1) * (lengths[min(1, words - 1)] - lengths[0])
        assert lengths[-1] == min(whole, most)
        assert read.shortened == (whole > most)
    path = tmp_path / "questions.jsonl"
    path.write_text("".join(json.dumps(q) + "\n" for q in (GOOD, line)))
    predict(PredictConfig(answering, input=path))
    found = [answer.get("shortened") for answer in answers(capsys.readouterr().out)]
    assert found == [None, True]


def test_an_id_that_no_answer_can_repeat_is_refused() -> None:
    line = {"article": "a", "question": "q", "options": list("abcd"), "id": "\ud800"}
    with pytest.raises(InvalidPassage, match=r"half of a surrogate pair in its id '\\ud800'"):
        parse_line(1, json.dumps(line).encode(), 4)


def test_a_batch_is_answered_before_the_input_ends(answering: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "components.predict", "--model", str(answering)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for number in (1, 2):
            process.stdin.write(json.dumps(GOOD).encode() + b"\n")
            process.stdin.flush()
            assert json.loads(process.stdout.readline())["line"] == number
        process.stdin.close()
        assert process.wait() == 0


def test_one_question_is_answered_with_a_table(
    answering: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["--passage", "Ann has a cat.", "--question", "Ann has a _."]
    options = [word for option in ("dog", "cat", "cow", "hen") for word in ("--option", option)]
    main(["--model", str(answering), *asked, *options])
    rows = capsys.readouterr().out.splitlines()
    assert [row.split()[-1] for row in rows] == ["dog", "cat", "cow", "hen"]
    shares = [float(row[4:].split()[0]) for row in rows]
    assert sum(shares) == pytest.approx(100, abs=0.03)
    assert [row[0] for row in rows] == ["*" if s == max(shares) else " " for s in shares]


def test_questions_may_have_other_numbers_of_options_than_the_model_was_trained_with(
    answering: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    counts = (2, 4, 4, 7)
    lines = [json.dumps({**GOOD, "options": list("abcdefg"[:n]), "answer": 1}) for n in counts]
    (tmp_path / "questions.jsonl").write_text("\n".join(lines))
    main(["--model", str(answering), "--input", str(tmp_path / "questions.jsonl")])
    found = answers(capsys.readouterr().out)
    assert [len(answer["probabilities"]) for answer in found] == [*counts]
    assert [answer["line"] for answer in found] == [1, 2, 3, 4]
    two, four = found[0]["probabilities"], found[1]["probabilities"]
    assert two[0] / two[1] == pytest.approx(four[0] / four[1], rel=1e-3)


def test_a_question_with_too_few_options_is_a_wrong_parameter(
    answering: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["--passage", "p", "--question", "q", "--option", "a"]
    assert run_step(main, ["--model", str(answering), *asked]) == ConfigError.exit_status


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"passage": "p", "question": "q"}, "together"),
        (
            {"passage": "p", "question": "q", "option": ("a", "b"), "input": Path("x")},
            "exclude each other",
        ),
        ({"batch_tokens": 0}, "batch_tokens is 0"),
    ],
)
def test_what_cannot_be_right_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        PredictConfig(Path("model"), **values)


def test_a_model_without_its_bpe_is_refused(answering: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Say with --bpe where"):
        predict(PredictConfig(answering / "model", input=test_files(answering)[0]))
    with pytest.raises(DataError, match="no such checkpoint"):
        predict(PredictConfig(tmp_path, bpe=answering / "bpe", input=test_files(answering)[0]))


def test_a_dictionary_of_another_size_is_refused(
    answering: Path, tiny_bpe: Path, tmp_path: Path
) -> None:
    alone = tmp_path / "model.pt"  # nothing is known of its vocabulary
    alone.hardlink_to(answering / "model" / "checkpoint_best.pt")
    with pytest.raises(DataError, match="tokens, but the dictionary"):
        predict(PredictConfig(alone, bpe=tiny_bpe, input=test_files(answering)[0]))


def test_a_bpe_that_is_not_whole_serves_only_the_model_that_was_trained_with_it(
    answering: Path, tmp_path: Path
) -> None:
    bpe = Path(shutil.copytree(answering / "bpe", tmp_path / "bpe"))
    lines = (bpe / "dict.txt").read_text().splitlines()
    (bpe / "dict.txt").write_text("".join(f"{s}\n" for s in [*lines[:-1], "madeupword0000 0"]))
    (tmp_path / "model").mkdir()
    checkpoint = tmp_path / "model" / "checkpoint_best.pt"
    checkpoint.hardlink_to(answering / "model" / "checkpoint_best.pt")
    with pytest.raises(DataError, match=r"1 ids of encoder.json, such as \d+, are not in dict.txt"):
        Reader(find_trained(checkpoint, bpe=bpe), "fp32")
    read_vocabulary(bpe).write(tmp_path / "model")
    Reader(find_trained(checkpoint, bpe=bpe), "fp32")


def test_lines_are_read_as_they_come() -> None:
    read, write = os.pipe()
    chunks = read_chunks(read)
    os.write(write, b"one\ntwo\nth")
    assert next(chunks) == [(1, b"one"), (2, b"two")]
    os.write(write, b"ree\n")
    assert next(chunks) == [(3, b"three")]
    os.write(write, b"four")
    os.close(write)
    assert list(chunks) == [[(4, b"four")]]
    os.close(read)


def test_an_endless_line_is_refused_and_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("components.predict.questions.MAX_FILE_BYTES", 1000)
    read, write = os.pipe()
    os.write(write, b"x" * 30_000 + b"\n" + b"y" * 20_000)
    os.close(write)
    found = [line for chunk in read_chunks(read) for line in chunk]
    os.close(read)
    assert [number for number, _ in found] == [1, 2]
    assert len(found[1][1]) == 1001
    for number, line in found:
        with pytest.raises(InvalidPassage, match=r"^more than"):
            parse_line(number, line, 4)


def test_real_passages_are_answered_from_a_pipe(
    answering: Path, shared_data: Path, tmp_path: Path
) -> None:
    """The sample's model knows only its own words; the BPE splits all others into bytes."""
    with tarfile.open(shared_data / "race-mini.tar.gz") as archive:
        members = [m for m in archive if m.isfile() and m.name.endswith(".txt")][:40]
        files = [archive.extractfile(member) for member in members]
        passages = [json.load(file) for file in files if file is not None]
    text = io.StringIO()
    for passage in passages:
        text.write(json.dumps(passage, ensure_ascii=False) + "\n")
        text.write("not a question\n")
    done = subprocess.run(
        [sys.executable, "-m", "components.predict", "--model", str(answering)],
        input=text.getvalue().encode(),
        capture_output=True,
    )
    asked = sum(len(passage["questions"]) for passage in passages)
    assert done.returncode == DataError.exit_status
    assert len(answers(done.stdout.decode())) == asked > 100
    said = done.stderr.decode().splitlines()
    bad = [int(line.split()[1][:-1]) for line in said if line.startswith("line ")]
    assert bad == list(range(2, 2 * len(passages) + 1, 2))
