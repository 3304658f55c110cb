"""Export and import, held against transformers and the tokenizers library."""

import json
import re
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from components.common.cli import run_step
from components.common.errors import ConfigError, DataError
from components.evaluate.trained import find_trained
from components.export.__main__ import main as export_main
from components.export.core import ExportConfig, export
from components.huggingface import tokenizer, weights
from components.import_.__main__ import main as import_main
from components.import_.core import ImportConfig, import_model
from components.predict.core import Reader
from components.predict.questions import Question, parse_line

QUESTIONS = 200


@pytest.fixture(scope="module", autouse=True)
def _without_a_network() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("TRANSFORMERS_VERBOSITY", "error")
        yield


@pytest.fixture(scope="module")
def exported(answering: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("exported") / "model"
    export(ExportConfig(answering, output))
    return output


@pytest.fixture(scope="module")
def questions(answering: Path) -> list[tuple[dict[str, Any], Question]]:
    """200 of the sample's questions, as RACE has them and as we read them."""
    found: list[tuple[dict[str, Any], Question]] = []
    for path in sorted((answering / "race" / "RACE").rglob("*.txt")):
        passage = json.loads(path.read_text())
        for question, options in zip(passage["questions"], passage["options"], strict=True):
            for turn in range(2):
                turned = options[turn:] + options[:turn]
                one = {"article": passage["article"], "question": question, "options": turned}
                (read,) = parse_line(1, json.dumps(one).encode(), 4)
                found.append((one, read))
    return found[:QUESTIONS]


@pytest.fixture(scope="module")
def card(exported: Path) -> dict[str, Any]:
    """What the code on the model card defines, run where the card lies."""
    text = (exported / "README.md").read_text()
    (code,) = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    names: dict[str, Any] = {}
    exec(code.replace('"."', repr(str(exported))), names)
    return names


def test_transformers_give_the_same_logits(
    answering: Path, exported: Path, questions: Any, card: dict[str, Any]
) -> None:
    from transformers import AutoModelForMultipleChoice, AutoTokenizer

    assert len(questions) == QUESTIONS
    reader = Reader(find_trained(answering), "fp32")
    ours = reader.logits(reader.read([read for _, read in questions]), 16384)
    assert isinstance(
        card["model"], AutoModelForMultipleChoice._model_mapping[type(card["model"].config)]
    )
    assert isinstance(card["tokenizer"], type(AutoTokenizer.from_pretrained(exported)))
    theirs = []
    for asked, _ in questions:
        batch = card["encode"](asked["article"], asked["question"], asked["options"])
        with torch.inference_mode():
            theirs.append(card["model"](**batch).logits[0].numpy())
    assert np.ptp(ours, axis=1).mean() > 0.1, "the model must tell options apart"
    np.testing.assert_allclose(np.array(theirs), ours, atol=1e-5, rtol=0)
    assert (np.array(theirs).argmax(1) == ours.argmax(1)).all()
    assert len(set(ours.argmax(1))) == 4


def test_transformers_load_every_weight_and_no_other(exported: Path) -> None:
    from transformers import AutoModelForMultipleChoice

    model, report = AutoModelForMultipleChoice.from_pretrained(exported, output_loading_info=True)
    assert type(model).__name__ == "RobertaForMultipleChoice"
    assert not any(report.values()), report


def test_half_precision_is_half_the_bytes(answering: Path, exported: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForMultipleChoice

    export(ExportConfig(answering, tmp_path / "half", precision="fp16"))
    sizes = [(f / "model.safetensors").stat().st_size for f in (exported, tmp_path / "half")]
    assert 0.45 < sizes[1] / sizes[0] < 0.55
    model = AutoModelForMultipleChoice.from_pretrained(tmp_path / "half")
    assert model.dtype == torch.float16


def test_tensors_that_share_their_memory_are_exported(answering: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    from components.train import checkpoints

    state = checkpoints.load(answering / "model" / "checkpoint_best.pt")
    model = state["model"]
    first, second = (f"encoder.sentence_encoder.layers.{n}.fc1.weight" for n in (0, 1))
    model[first] = model[second]
    torch.save(state, tmp_path / "model.pt")
    export(ExportConfig(tmp_path / "model.pt", tmp_path / "out", bpe=answering / "bpe"))
    found = load_file(tmp_path / "out" / "model.safetensors")
    one, other = (found[f"roberta.encoder.layer.{n}.intermediate.dense.weight"] for n in (0, 1))
    assert torch.equal(one, model[second])
    assert torch.equal(one, other)


def test_the_card_tells_the_settings_and_the_figures(answering: Path, exported: Path) -> None:
    text = (exported / "README.md").read_text()
    accuracy = json.loads((answering / "report" / "metrics.json").read_text())["accuracy"]
    assert f"| {accuracy:.1f} % |" in text
    assert "| learning_rate | 0.003 |" in text
    assert "questions. Their source was not recorded." in text
    assert "RACE" not in text, "nobody said so"


@pytest.mark.parametrize("figures", ['{"questions": "many"}', '{"accuracy": "good"}'])
def test_a_card_of_figures_that_are_none_is_refused(
    answering: Path, tmp_path: Path, figures: str
) -> None:
    for part in ("model", "bpe"):
        shutil.copytree(answering / part, tmp_path / part)
    path = tmp_path / ("model" if "questions" in figures else "report") / "metrics.json"
    path.parent.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)
    path.write_text(figures)
    with pytest.raises(DataError, match=r"metrics.json: (damaged|has no questions)"):
        export(ExportConfig(tmp_path, tmp_path / "out"))


def test_a_card_of_a_bare_checkpoint_has_no_figures(answering: Path, tmp_path: Path) -> None:
    shutil.copy(answering / "model" / "checkpoint_best.pt", tmp_path)
    alone = tmp_path / "checkpoint_best.pt"
    export(ExportConfig(alone, tmp_path / "out", bpe=answering / "bpe"))
    text = (tmp_path / "out" / "README.md").read_text()
    assert "## Use" in text
    assert "## Accuracy" not in text
    assert "## Training" not in text


def tokens_agree(bpe: Path, folder: Path, texts: list[str]) -> None:
    from transformers import AutoTokenizer

    from components.binarize.binarizer import Binarizer
    from components.binarize.bpe import read_encoder
    from components.common.dictionary import read_dictionary

    encoder = read_encoder(bpe / "encoder.json", bpe / "vocab.bpe")
    binarizer = Binarizer(encoder, read_dictionary(bpe / "dict.txt"))
    items = binarizer.binarize([text.encode() for text in texts])
    ours = np.split(items.tokens.astype(int), np.cumsum(items.sizes)[:-1])
    theirs = AutoTokenizer.from_pretrained(folder)
    for text, tokens in zip(texts, ours, strict=True):
        assert theirs(text).input_ids == [0, *tokens.tolist()], text


ODD_TEXTS = [
    "I'm sure it's 3.14 -- isn't it?",
    "naïve café “quoted” … 北京 🙂",
    "<mask> and </s> are text, <s>too<pad>",
    "x",
    "a_b\u00a0c\u200b",
]


def test_tokens_are_ours(answering: Path, exported: Path, questions: Any) -> None:
    texts = [line.decode() for _, read in questions[:40] for line in read.inputs]
    tokens_agree(answering / "bpe", exported, texts + ODD_TEXTS)


def write_tokenizer(bpe: Path, folder: Path) -> None:
    folder.mkdir()
    for name, text in tokenizer.to_huggingface(bpe, 512).items():
        (folder / name).write_text(text, encoding="utf-8")


def test_tokens_are_ours_for_ids_in_any_order(tiny_bpe: Path, tmp_path: Path) -> None:
    write_tokenizer(tiny_bpe, tmp_path / "hf")
    tokens_agree(tiny_bpe, tmp_path / "hf", ODD_TEXTS)


def test_real_text_gets_our_tokens_and_comes_back(shared_data: Path, tmp_path: Path) -> None:
    write_tokenizer(shared_data, tmp_path / "hf")
    with tarfile.open(shared_data / "race-mini.tar.gz") as archive:
        files = [archive.extractfile(m) for m in archive if m.name.endswith(".txt")]
        articles = [json.load(file)["article"] for file in files if file is not None]
    assert len(articles) > 100
    texts = [" ".join(article.split()) for article in articles]
    tokens_agree(shared_data, tmp_path / "hf", texts + ODD_TEXTS)
    vocabulary = json.loads((tmp_path / "hf" / "vocab.json").read_text())
    # As in the published roberta-large.
    assert len(vocabulary) == 50265
    assert [vocabulary[piece] for piece in (".", "Ġthe", "<mask>")] == [4, 5, 50264]
    back = tokenizer.from_huggingface(tmp_path / "hf")
    ids = json.loads((shared_data / "encoder.json").read_text())
    assert json.loads(back["encoder.json"]) == ids
    assert back["vocab.bpe"] == (shared_data / "vocab.bpe").read_text()
    symbols = [line.split()[0] for line in (shared_data / "dict.txt").read_text().splitlines()]
    assert [line.split()[0] for line in back["dict.txt"].splitlines()] == symbols


def test_tokenizer_json_alone_will_do(tiny_bpe: Path, tmp_path: Path) -> None:
    write_tokenizer(tiny_bpe, tmp_path / "hf")
    both = tokenizer.from_huggingface(tmp_path / "hf")
    for name in ("vocab.json", "merges.txt"):
        (tmp_path / "hf" / name).unlink()
    assert tokenizer.from_huggingface(tmp_path / "hf") == both


def test_a_dictionary_that_lacks_pieces_is_refused(tiny_bpe: Path, tmp_path: Path) -> None:
    bpe = Path(shutil.copytree(tiny_bpe, tmp_path / "bpe"))
    lines = (bpe / "dict.txt").read_text().splitlines(keepends=True)
    (bpe / "dict.txt").write_text("".join(lines[3:]))
    with pytest.raises(DataError, match=r"dict.txt lacks 3 pieces"):
        tokenizer.to_huggingface(bpe, 512)


def test_what_was_exported_comes_back_and_answers_alike(
    answering: Path, exported: Path, questions: Any, tmp_path: Path
) -> None:
    import_model(ImportConfig(exported, tmp_path / "back"))
    asked = [read for _, read in questions]
    found = find_trained(tmp_path / "back" / "model.pt", bpe=tmp_path / "back")
    readers = [Reader(trained, "fp32") for trained in (find_trained(answering), found)]
    ours, back = (reader.logits(reader.read(asked), 16384) for reader in readers)
    assert (back == ours).all()
    for name in ("encoder.json", "vocab.bpe"):
        assert (tmp_path / "back" / name).read_text() == (answering / "bpe" / name).read_text()


def test_an_exported_model_with_another_tokenizer_is_not_imported(
    exported: Path, tmp_path: Path
) -> None:
    source = Path(shutil.copytree(exported, tmp_path / "exported"))
    vocabulary = json.loads((source / "vocab.json").read_text())
    vocabulary["a"], vocabulary["e"] = vocabulary["e"], vocabulary["a"]
    (source / "vocab.json").write_text(json.dumps(vocabulary))
    with pytest.raises(DataError, match=r"exported and .*vocabulary.json: .* different dict.txt"):
        import_model(ImportConfig(source, tmp_path / "back"))
    assert not (tmp_path / "back").exists()


@pytest.fixture(scope="module")
def stranger(answering: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Models that transformers made and saved, of each kind, with the sample's tokenizer."""
    import transformers

    folder = tmp_path_factory.mktemp("stranger")
    config = transformers.RobertaConfig(
        vocab_size=len((answering / "bpe" / "dict.txt").read_text().splitlines()) + 5,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        max_position_embeddings=130,
        type_vocab_size=2,
        layer_norm_eps=1e-5,
        initializer_range=0.2,
    )
    torch.manual_seed(1)
    kinds = ("RobertaModel", "RobertaForMaskedLM", "RobertaForMultipleChoice")
    for kind in kinds:
        model = getattr(transformers, kind)(config)
        if kind == "RobertaForMultipleChoice":
            model.classifier.weight.data *= 6  # so that it tells options apart
        model.save_pretrained(folder / kind)
        for name, text in tokenizer.to_huggingface(answering / "bpe", 128).items():
            (folder / kind / name).write_text(text, encoding="utf-8")
    return {kind: folder / kind for kind in kinds}


def fairseq_model(path: Path, bpe: Path) -> Any:
    """What fairseq makes of a pretrained checkpoint with no help of ours."""
    from components.train import checkpoints, compat

    compat.import_fairseq()
    from fairseq.data import Dictionary
    from fairseq.models.roberta import RobertaModel
    from fairseq.models.roberta.model import base_architecture

    dictionary = Dictionary.load(str(bpe / "dict.txt"))
    dictionary.add_symbol("<mask>")
    state = checkpoints.load(path)
    args = state["args"]
    base_architecture(args)
    model = RobertaModel.build_model(args, type("Task", (), {"source_dictionary": dictionary}))
    model.load_state_dict(state["model"], strict=True)
    return model.eval()


@pytest.mark.parametrize("kind", ["RobertaModel", "RobertaForMaskedLM"])
@pytest.mark.parametrize("pickled", [False, True])
def test_a_strangers_model_computes_the_same_in_fairseq(
    stranger: dict[str, Path], tmp_path: Path, kind: str, pickled: bool
) -> None:
    import transformers
    from safetensors.torch import load_file

    source = Path(shutil.copytree(stranger[kind], tmp_path / "source"))
    if pickled:
        torch.save(load_file(source / "model.safetensors"), source / "pytorch_model.bin")
        (source / "model.safetensors").unlink()
    path = import_model(ImportConfig(source, tmp_path / "out"))
    ours = fairseq_model(path, tmp_path / "out")
    theirs = getattr(transformers, kind).from_pretrained(stranger[kind]).eval()
    tokens = torch.randint(4, 300, (6, 50), generator=torch.Generator().manual_seed(1))
    tokens[:, 0], tokens[:, -1] = 0, 2
    with torch.inference_mode():
        masked = kind == "RobertaForMaskedLM"
        one = ours(tokens, features_only=not masked)[0]
        other = theirs(tokens)
        other = other.logits if masked else other.last_hidden_state
    assert one.std() > 0.5
    torch.testing.assert_close(one, other, atol=1e-5, rtol=0)


def test_a_strangers_multiple_choice_answers_alike(
    stranger: dict[str, Path], questions: Any, tmp_path: Path
) -> None:
    import transformers

    source = stranger["RobertaForMultipleChoice"]
    path = import_model(ImportConfig(source, tmp_path / "out"))
    reader = Reader(find_trained(path, bpe=tmp_path / "out"), "fp32")
    read = reader.read([question for _, question in questions])
    ours = reader.logits(read, 16384)
    model = transformers.AutoModelForMultipleChoice.from_pretrained(source).eval()
    theirs = np.empty_like(ours)
    with torch.inference_mode():
        for place, one in enumerate(read):
            theirs[place] = model(**padded(one.sequences)).logits[0].numpy()
    assert np.ptp(ours, axis=1).mean() > 0.1
    np.testing.assert_allclose(theirs, ours, atol=1e-5, rtol=0)


def test_training_from_an_import_starts_as_from_the_original(
    answering: Path, tmp_path: Path
) -> None:
    from safetensors.torch import save_file

    from components.train import checkpoints
    from pipeline.sample import TINY

    original = answering / "roberta" / "roberta.tiny" / "model.pt"
    source = tmp_path / "source"
    write_tokenizer(answering / "bpe", source)
    # The published format of 2019 has other names; fairseq's own model brings them up to date.
    state = fairseq_model(original, answering / "bpe").state_dict()
    names = weights.encoder_names(TINY.encoder_layers) | weights.LANGUAGE_NAMES
    tensors = {theirs: state[ours].clone() for ours, theirs in names.items()}
    save_file(tensors, source / "model.safetensors", metadata={"format": "pt"})
    config = {
        "model_type": "roberta",
        "num_hidden_layers": TINY.encoder_layers,
        "hidden_size": TINY.encoder_embed_dim,
        "intermediate_size": TINY.encoder_ffn_embed_dim,
        "num_attention_heads": TINY.encoder_attention_heads,
        "layer_norm_eps": 1e-5,
    }
    (source / "config.json").write_text(json.dumps(config))
    imported = import_model(ImportConfig(source, tmp_path / "imported")).parent
    back = checkpoints.load(checkpoints.find_pretrained(imported))["model"]
    assert all(torch.equal(back[name], state[name]) for name in names)
    first, second = (
        losses_of_training(answering / "data", pretrained, tmp_path / f"from-{pretrained.name}")
        for pretrained in (original, imported)
    )
    assert first == second
    assert len(set(first)) > 2, "the losses must tell models apart"


def losses_of_training(
    data: Path, pretrained: Path, output: Path, **parameters: Any
) -> list[float]:
    from components.train.core import TrainConfig, train
    from pipeline.sample import TINY

    given = {
        "arch": "roberta_base",
        **vars(TINY),
        "precision": "fp32",
        "processes": 1,
        "batch_size": 32,
        "effective_batch_size": 32,
        "learning_rate": 0.01,
        "max_updates": 4,
        "log_interval": 1,
        "dropout": 0.0,
        "attention_dropout": 0.0,
        **parameters,
    }
    train(TrainConfig(data, pretrained, output, **given))
    records = map(json.loads, (output / "train_log.jsonl").read_text().splitlines())
    return [record["loss"] for record in records if record["split"] == "train"]


def test_the_first_loss_of_training_is_that_of_transformers(
    answering: Path, stranger: dict[str, Path], tmp_path: Path
) -> None:
    """All questions are in the first update, so that its loss is that of the imported model."""
    import transformers

    source = stranger["RobertaForMultipleChoice"]
    path = import_model(ImportConfig(source, tmp_path / "imported"))
    reader = Reader(find_trained(path, bpe=path.parent), "fp32")
    model = transformers.AutoModelForMultipleChoice.from_pretrained(source).eval()
    columns = [
        (answering / "text" / f"train.input{column}").read_bytes().splitlines()
        for column in range(5)
    ]
    labels = [int(label) for label in (answering / "text" / "train.label").read_text().split()]
    asked = [
        Question(1, "", [], list(inputs), label)
        for label, inputs in zip(labels, zip(*columns, strict=True), strict=True)
    ]
    loss = 0.0
    with torch.inference_mode():
        for label, read in zip(labels, reader.read(asked), strict=True):
            given = {**padded(read.sequences), "labels": torch.tensor([label])}
            loss += float(model(**given).loss) / len(labels)
    config = json.loads((source / "config.json").read_text())
    (first,) = losses_of_training(
        answering / "data",
        path.parent,
        tmp_path / "trained",
        encoder_attention_heads=config["num_attention_heads"],
        encoder_ffn_embed_dim=config["intermediate_size"],
        max_positions=128,
        batch_size=len(labels),
        effective_batch_size=len(labels),
        max_updates=1,
    )
    assert abs(loss - np.log(4)) > 0.01
    # fairseq logs it in bits, with three decimals.
    assert first == pytest.approx(loss, abs=0.0005 * np.log(2) + 1e-6)


def padded(rows: list[Any]) -> dict[str, Any]:
    """A question's sequences as a batch of one for transformers."""
    tokens = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=1)
    return {"input_ids": tokens[None], "attention_mask": (tokens != 1).long()[None]}


def changed(source: Path, folder: Path, **settings: Any) -> Path:
    copy = Path(shutil.copytree(source, folder / "changed"))
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | settings))
    return copy


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"layer_norm_eps": 1e-12}, "layer_norm_eps is 1e-12"),
        ({"model_type": "bert"}, "model_type is 'bert'"),
        ({"hidden_act": "relu"}, "hidden_act is 'relu'"),
        ({"num_hidden_layers": 3}, "the weights have no roberta.encoder.layer.2"),
        ({"num_hidden_layers": "two"}, "num_hidden_layers is 'two'"),
        ({"intermediate_size": 64}, "do not fit config.json"),
        ({"num_attention_heads": 5}, "do not fit config.json"),
        ({"num_attention_heads": 4.0}, "num_attention_heads is 4.0"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers is 1000000000"),
        ({"num_hidden_layers": True}, "num_hidden_layers is True"),
        ({"num_hidden_layers": 1}, "leaves no place for 16 tensors"),
        ({"hidden_size": [32]}, "hidden_size is of type list"),
        ({"hidden_dropout_prob": "abc"}, "hidden_dropout_prob is 'abc'"),
        ({"pad_token_id": True}, "pad_token_id is True"),
        ({"hidden_act": {}}, "hidden_act is of type dict"),
        ({"layer_norm_eps": "1e-5"}, "layer_norm_eps is '1e-5'"),
        ({"sentence_ranking": ["x"]}, "sentence_ranking: its settings are of type list"),
    ],
)
def test_what_fairseq_does_not_compute_is_refused(
    stranger: dict[str, Path], tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    source = changed(stranger["RobertaForMaskedLM"], tmp_path, **settings)
    with pytest.raises(DataError, match=message):
        import_model(ImportConfig(source, tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ({"init_token": "x"}, "sentence_ranking: init_token is 'x'"),
        ({"separator_token": 10**6}, "separator_token is 1000000"),
        ({"num_classes": 0}, "num_classes is 0"),
        ({"max_option_length": 1.5}, "max_option_length is 1.5"),
        ({"init_token": None, "max_option_length": None}, ""),
    ],
)
def test_the_tasks_settings_are_checked(
    stranger: dict[str, Path], tmp_path: Path, task: dict[str, Any], message: str
) -> None:
    source = changed(stranger["RobertaForMultipleChoice"], tmp_path, sentence_ranking=task)
    if not message:
        import_model(ImportConfig(source, tmp_path / "out"))
        return
    with pytest.raises(DataError, match=message):
        import_model(ImportConfig(source, tmp_path / "out"))


class Harmful:
    def __reduce__(self) -> tuple[object, ...]:
        return (print, ("run by a pickle",))


def test_a_pickle_that_runs_code_is_refused(
    stranger: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = changed(stranger["RobertaForMaskedLM"], tmp_path)
    (source / "model.safetensors").unlink()
    torch.save({"a": Harmful()}, source / "pytorch_model.bin")
    with pytest.raises(DataError, match="refused, because reading it would call"):
        import_model(ImportConfig(source, tmp_path / "out"))
    assert "run by a pickle" not in capsys.readouterr().out


@pytest.mark.parametrize("damage", ["config.json", "model.safetensors", "vocab.json"])
def test_a_damaged_file_is_one_line(
    stranger: dict[str, Path], tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    source = changed(stranger["RobertaForMaskedLM"], tmp_path)
    (source / damage).write_bytes((source / damage).read_bytes()[:100])
    given = ["--source", str(source), "--output", str(tmp_path / "out")]
    assert run_step(import_main, given) == DataError.exit_status
    assert "damaged" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_export_without_a_bpe_is_a_wrong_parameter(answering: Path, tmp_path: Path) -> None:
    given = ["--model", str(answering / "model"), "--output", str(tmp_path / "out")]
    assert run_step(export_main, given) == ConfigError.exit_status
    assert not (tmp_path / "out").exists()
