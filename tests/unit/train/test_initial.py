"""A model that is to be replaced is not drawn, and what is drawn after it is as ever."""

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from components.train import compat, initial


@pytest.mark.parametrize("before", [0, 1, 623, 624, 625])
@pytest.mark.parametrize("draws", [0, 1, 622, 623, 624, 625, 1248, 123_457])
def test_a_generator_jumps_to_where_draws_would_bring_it(before: int, draws: int) -> None:
    drawing, jumping = (torch.Generator().manual_seed(7) for _ in range(2))
    for generator, count in ((drawing, before), (jumping, before), (drawing, draws)):
        torch.empty(count).uniform_(generator=generator)
    initial.skip(jumping, draws)
    assert torch.equal(drawing.get_state(), jumping.get_state())


@pytest.mark.parametrize("width", [8, 36])
def test_the_new_head_is_bit_by_bit_that_of_stock_fairseq(
    tiny_race: Any, tmp_path: Path, width: int
) -> None:
    compat.import_fairseq()
    from fairseq.models.roberta.model import roberta_base_architecture
    from fairseq.tasks.sentence_ranking import SentenceRankingTask

    from components.train.engine.task import PackedRankingTask

    args = argparse.Namespace(
        arch="roberta",
        encoder_layers=2,
        encoder_embed_dim=width,
        encoder_ffn_embed_dim=3 * width,
        encoder_attention_heads=2,
        max_positions=64,
        max_option_length=16,
        data=str(tiny_race.data),
        num_classes=4,
        no_shuffle=False,
        seed=1,
        criterion="sentence_ranking",
        restore_file=str(tmp_path / "model.pt"),
    )
    roberta_base_architecture(args)

    def drawn(kind: Any) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        task = kind(args, SentenceRankingTask.setup_task(args).dictionary)
        torch.manual_seed(5)
        return task.build_model(args).state_dict(), torch.get_rng_state()

    stock, state = drawn(SentenceRankingTask)
    packed, _ = drawn(PackedRankingTask)
    (tmp_path / "model.pt").touch()
    undrawn, after = drawn(PackedRankingTask)
    assert torch.equal(state, after)
    heads = [name for name in stock if name.startswith("classification_heads.")]
    assert len(heads) == 4
    for name in heads:
        assert torch.equal(stock[name], undrawn[name]), name
    name = "encoder.sentence_encoder.layers.1.fc1.weight"
    assert torch.equal(stock[name], packed[name]), "no checkpoint is there to replace it"
    assert not torch.equal(stock[name], undrawn[name]), "not drawn, for it is to be replaced"


def test_does_not_import_torchs_compiler() -> None:
    code = (
        "import sys, torch; from components.train.initial import undrawn\n"
        "with undrawn(): torch.nn.Linear(3, 3)\n"
        "assert 'torch._dynamo' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
