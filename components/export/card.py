"""The model card: a README.md as Hugging Face's hub shows it."""

import re
import textwrap
from dataclasses import dataclass
from typing import Any

from components.common.errors import ConfigError
from components.common.results.metrics import Evaluation, Training

# Of the settings of training, those that say what was done to the weights.
SETTINGS = (
    "arch",
    "epochs",
    "max_updates",
    "effective_batch_size",
    "optimizer",
    "learning_rate",
    "lr_scheduler",
    "warmup_updates",
    "adam_beta1",
    "adam_beta2",
    "adam_eps",
    "weight_decay",
    "clip_norm",
    "dropout",
    "attention_dropout",
    "precision",
    "seed",
)


@dataclass(frozen=True)
class Exported:
    """What the card tells of.

    Args:
        task: the task's settings, by the names of fairseq-train's arguments.
        parameters: their number.
        training, evaluation: as far as they are known.
    """

    task: dict[str, Any]
    parameters: int
    training: Training
    evaluation: Evaluation


def model_card(exported: Exported) -> str:
    """The card in Markdown, with the settings for the hub at its head."""
    return "\n".join(
        part
        for part in (
            _head(exported),
            _introduction(exported),
            _use(exported),
            _data(exported),
            _settings(exported.training),
            _figures(exported.evaluation),
            _licence(exported),
        )
        if part
    )


_RACE, _RACE_PAGE = "ehovy/race", "https://www.cs.cmu.edu/~glai1/data/race/"
_ON_HUB = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*", re.ASCII)


def _on_hub(name: str) -> str | None:
    return name if _ON_HUB.fullmatch(name) else None


def _named(exported: Exported) -> str:
    """What people call the data set."""
    name = exported.training.dataset
    return "RACE" if name == _RACE else name or "multiple-choice questions"


def _head(exported: Exported) -> str:
    """The settings for the hub, as huggingface_hub writes them."""
    try:
        from huggingface_hub import EvalResult, ModelCardData
    except ImportError:
        raise ConfigError(
            "the card needs huggingface_hub, which this Python lacks",
            hint="pip install huggingface_hub",
        ) from None
    training, dataset = exported.training, exported.training.dataset
    licence: dict[str, Any] = {"license": "unknown"}
    if dataset == _RACE:
        licence = {
            "license": "other",
            "license_name": "race-research-only",
            "license_link": _RACE_PAGE,
        }
    results = [
        EvalResult(
            task_type="multiple-choice",
            dataset_type=_on_hub(dataset) or "other",
            dataset_name=_named(exported),
            dataset_config=name,
            dataset_split="test",
            metric_type="accuracy",
            metric_name="accuracy in percent",
            metric_value=round(group.accuracy, 2),
        )
        for name, group in exported.evaluation.scores.groups.items()
    ]
    data = ModelCardData(
        library_name="transformers",
        pipeline_tag="multiple-choice",
        language="en",
        base_model=_on_hub(training.base_model),
        datasets=[dataset] if _on_hub(dataset) else None,
        tags=["roberta", "multiple-choice"],
        metrics=["accuracy"] if results else None,
        model_name=f"RoBERTa on {_named(exported)}",
        eval_results=results or None,
        **licence,
    )
    return f"---\n{data.to_yaml()}\n---\n"


def _introduction(exported: Exported) -> str:
    base = exported.training.base_model
    start = f", from {base}," if base else ""
    paper = " (Lai et al. 2017)" if exported.training.dataset == _RACE else ""
    text = (
        f"RoBERTa (Liu et al. 2019) was fine-tuned with fairseq{start} on {_named(exported)}"
        f"{paper}, and its checkpoint turned into a RobertaForMultipleChoice with"
        f" {exported.parameters:,} parameters."
    )
    return f"""\
# RoBERTa fine-tuned on {_named(exported)}

It chooses among {exported.task["num_classes"]} answers to a question about a passage.

{_lines(text)}
"""


def _use(exported: Exported) -> str:
    task = exported.task
    code = f'''
        import torch
        from transformers import AutoModelForMultipleChoice, AutoTokenizer

        folder = "."  # where this file lies
        model = AutoModelForMultipleChoice.from_pretrained(folder).eval()
        tokenizer = AutoTokenizer.from_pretrained(folder)


        def encode(passage, question, options):
            """Token ids and attention mask, (1, options, tokens)."""
            rows = []
            for option in options:
                if "_" in question:
                    text = question.replace("_", option)
                else:
                    text = f"{{question}} {{option}}"
                first, second = (tokenizer(" ".join(t.split())).input_ids for t in (text, passage))
                # In place of the <s> that the tokenizer puts in front of each.
                first[0], second[0] = {task["init_token"]}, {task["separator_token"]}
                first = first[:{task["max_option_length"]}]
                rows.append((first + second)[:{task["max_positions"]}])
            batch = tokenizer.pad({{"input_ids": rows}}, return_tensors="pt")
            return {{name: value.unsqueeze(0) for name, value in batch.items()}}


        def answer(passage, question, options):
            """The probability of each option."""
            with torch.inference_mode():
                return model(**encode(passage, question, options)).logits.softmax(-1)[0]
    '''
    return f"""\
## Use

The first segment is the question with an option in place of each underscore, or after it; the
second is the passage: `<s> question option </s></s> passage </s>`. Runs of white space become one
space. As in training, the first segment is cut after {task["max_option_length"]} tokens and the \
whole after {task["max_positions"]},
last `</s>` included; the tokenizer's own truncation would keep that token.

```python{textwrap.dedent(code).rstrip()}
```

The tokenizer takes text that spells a special token, such as `<mask>`, for text.
"""


def _data(exported: Exported) -> str:
    questions = exported.training.questions
    used = f"This model was trained on {questions:,} questions." if questions else ""
    if exported.training.dataset == _RACE:
        text = (
            "RACE has English exams for middle and high school pupils in China: 27,933 passages and"
            f" 97,687 questions, of which 87,866 are to train on. {used}"
        )
    elif exported.training.dataset:
        text = f"Passages, questions and answers of {_named(exported)}. {used}"
    else:
        text = f"{used} Their source was not recorded." if used else ""
    return f"## Data\n\n{_lines(text)}\n" if text else ""


def _settings(training: Training) -> str:
    if not training.parameters:
        return ""
    known = {**training.parameters, "updates": training.updates}
    rows = [(name, known[name]) for name in (*SETTINGS, "updates") if known.get(name) is not None]
    return "## Training\n\n" + _table(("setting", "value"), rows)


def _figures(evaluation: Evaluation) -> str:
    if not evaluation.scores.groups:
        return ""
    rows = []
    for name, group in evaluation.scores.shown.items():
        low, high = group.interval
        cells = (f"{group.questions:,}", f"{group.accuracy:.1f} %", f"{low:.1f} to {high:.1f} %")
        rows.append((name, *cells))
    header = ("test questions", "number", "accuracy", "95 % confidence")
    return "## Accuracy\n\n" + _table(header, rows)


def _table(header: tuple[str, ...], rows: list[Any]) -> str:
    lines = [header, tuple("---" for _ in header), *rows]
    return "".join("| " + " | ".join(map(str, cells)) + " |\n" for cells in lines)


def _licence(exported: Exported) -> str:
    race = exported.training.dataset == _RACE
    data = (
        f"RACE is for non-commercial research only; see its page, {_RACE_PAGE}, before using a"
        " model that was trained on it."
        if race
        else "Whether the data allow the model to be passed on is up to their licence."
    )
    about = (
        f"{data} The weights started from RoBERTa, which is under the MIT licence"
        " (https://github.com/facebookresearch/fairseq). Whoever publishes this model settles under"
        " which licence."
    )
    limits = (
        f"{'It was trained on school exams in English. ' * race}It always chooses, also where no"
        " option is right or the passage does not say; its probabilities are no measure of truth."
    )
    return f"## Licence and limits\n\n{_lines(about)}\n\n{_lines(limits)}\n"


def _lines(text: str) -> str:
    return textwrap.fill(text, 100, break_long_words=False, break_on_hyphens=False)
