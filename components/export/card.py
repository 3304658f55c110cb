"""The model card: a README.md as Hugging Face's hub shows it."""

import textwrap
from dataclasses import dataclass
from typing import Any

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
            _HEAD,
            _introduction(exported),
            _use(exported),
            _data(exported),
            _settings(exported.training),
            _figures(exported.evaluation),
            _LICENCE,
        )
        if part
    )


_HEAD = """\
---
library_name: transformers
pipeline_tag: multiple-choice
language: en
license: other
datasets:
- ehovy/race
tags:
- roberta
- multiple-choice
---
"""


def _introduction(exported: Exported) -> str:
    return f"""\
# RoBERTa fine-tuned on RACE

It chooses among {exported.task["num_classes"]} answers to a question about a passage.

RoBERTa (Liu et al. 2019) was fine-tuned with fairseq on RACE (Lai et al. 2017), or a data set in
its format, and its checkpoint turned into a RobertaForMultipleChoice with {exported.parameters:,}
parameters.
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
    used = f" This model was trained on {questions:,} questions." if questions else ""
    return f"""\
## Data

RACE has English exams for middle and high school pupils in China: 27,933 passages and 97,687
questions, of which 87,866 are to train on.{used}
"""


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


_LICENCE = """\
## Licence and limits

RACE is for non-commercial research only; see its page, https://www.cs.cmu.edu/~glai1/data/race/,
before using a model that was trained on it. The weights started from RoBERTa, which is under the
MIT licence (https://github.com/facebookresearch/fairseq). Whoever publishes this model settles
under which licence.

It was trained on school exams in English. It always chooses, also where no option is right or the
passage does not say; its probabilities are no measure of truth.
"""
