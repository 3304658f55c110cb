"""The packed model against fairseq's own on the device, in float32."""

import argparse
import copy
import time
import types
from typing import Any

import torch
import torch.nn.functional as F

from benchmarks.gpu.kernels import relative
from benchmarks.gpu.setting import Setting, require
from benchmarks.race_data import VOCABULARY

HEAD = "sentence_classification_head"
ALLOWED = 1e-4  # of the logits' and of all gradients' norm


def agreement(setting: Setting) -> dict[str, Any]:
    """Logits and all gradients of roberta_large with random weights, without dropout."""
    from components.train import compat

    compat.import_fairseq()
    from fairseq.data import Dictionary
    from fairseq.models.roberta import RobertaModel
    from fairseq.models.roberta.model import roberta_large_architecture

    from components.train.engine.batch import pack
    from components.train.engine.model import PackedRoberta

    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    torch.manual_seed(1)
    dictionary = Dictionary()
    for word in range(VOCABULARY - dictionary.nspecial):
        dictionary.add_symbol(f"word{word}")
    longest = 64 if setting.rehearse else 512
    args = argparse.Namespace(dropout=0.0, attention_dropout=0.0, max_positions=longest)
    if setting.rehearse:
        args.encoder_layers, args.encoder_embed_dim, args.encoder_ffn_embed_dim = 2, 32, 64
        args.encoder_attention_heads = 2
    roberta_large_architecture(args)
    stock = RobertaModel.build_model(args, types.SimpleNamespace(source_dictionary=dictionary))
    stock.register_classification_head(HEAD, num_classes=1)
    packed = PackedRoberta(copy.deepcopy(stock), HEAD).to(setting.device).train()
    stock = stock.to(setting.device).train()

    lengths = [[longest, longest, 40, 3], [longest // 2, 9, 50, 61], [1, 2, longest, longest - 1]]
    questions = [
        (place, [torch.randint(4, VOCABULARY - 1, (n,)) for n in options], place)
        for place, options in enumerate(lengths)
    ]
    columns = [
        torch.cat(
            [
                stock(options[option][None].to(setting.device), classification_head_name=HEAD)[0]
                for _, options, _ in questions
            ]
        )
        for option in range(4)
    ]
    expected = torch.cat(columns, dim=1)
    batch = pack(questions)
    assert batch is not None
    batch = batch.to(torch.device(setting.device))
    started = time.perf_counter()
    scores = packed(batch)
    for logits in (expected, scores):
        F.cross_entropy(logits.float(), batch.targets, reduction="sum").backward()
    figures: dict[str, Any] = {
        "logits": relative(scores, expected),
        "spread": float(expected.detach().std()),
        "backward_s": round(time.perf_counter() - started, 2),
    }
    gradients = {name: parameter.grad for name, parameter in stock.named_parameters()}
    worst, largest, apart, whole = "", 0.0, 0.0, 0.0
    for name, parameter, rows in packed.parts():
        assert parameter.grad is not None
        ours = parameter.grad if rows is None else parameter.grad[rows]
        difference = float((ours - gradients[name]).double().norm() ** 2)
        apart += difference
        whole += float(gradients[name].double().norm() ** 2)
        worst, largest = max((worst, largest), (name, difference), key=lambda pair: pair[1])
    figures |= {
        "gradients": (apart / whole) ** 0.5,
        "worst": worst,
        "parameters": sum(p.numel() for p in packed.parameters()),
    }
    setting.tell(**figures)
    require(figures["logits"] < ALLOWED, f"logits differ by {figures['logits']:.1e}")
    require(figures["gradients"] < ALLOWED, f"gradients differ by {figures['gradients']:.1e}")
    return figures
