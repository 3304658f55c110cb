"""Speed of `race serve` against the model called for one question after the other.

    python benchmarks/serve.py                      # passages of about RACE's length
    python benchmarks/serve.py --words 20           # short ones

makes a model (2 layers of width 64 unless said otherwise, a training of one update) and questions
of words, and measures in turn, forth and back again (ABBA):

- predict's function called for each question, which loads the model each time (few questions),
- a model that is loaded once and is given one question at a time, in the same process,
- the server in a process of its own, asked by 1, 8 and 32 clients at once, each of which asks its
  next question when it has its answer, over a connection that stays open. Clients take CPU time
  too: the server's alone is counted.

In all of them torch's threads sleep while they wait (OMP_WAIT_POLICY=PASSIVE), as the server's do.
"""

import argparse
import asyncio
import contextlib
import io
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch is loaded

from start import cpu_seconds  # noqa: E402

from components.binarize.core import BinarizeConfig, binarize  # noqa: E402
from components.common import strict_json  # noqa: E402
from components.download.archive import unpack  # noqa: E402
from components.evaluate.trained import find_trained  # noqa: E402
from components.predict.core import PredictConfig, Reader, predict  # noqa: E402
from components.predict.questions import parse_line  # noqa: E402
from components.preprocess.core import PreprocessConfig, preprocess  # noqa: E402
from components.train.core import TrainConfig, train  # noqa: E402
from pipeline.sample import Shape, make_checkpoint, make_sample  # noqa: E402

CLIENTS = (1, 8, 32)


class Measured(NamedTuple):
    """Of some questions: seconds in all, CPU seconds, and seconds of each."""

    wall: float
    cpu: float
    each: list[float]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--words", type=int, default=250, help="of a passage, on average")
    parser.add_argument("--questions", type=int, default=100, help="of each measurement")
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as scratch:
        run = Path(scratch)
        with contextlib.redirect_stdout(io.StringIO()):
            make_run(run, arguments.layers, arguments.width)
        lines = make_questions(run, arguments.words, arguments.questions)
        reader = Reader(find_trained(run))
        with served(run) as (port, pid):

            def ask(clients: int) -> Callable[[], Measured]:
                return lambda: asyncio.run(ask_all(lines, port, pid, clients))

            kinds = {f"serve, {n} client{'s' * (n > 1)}": ask(n) for n in CLIENTS}
            kinds = {"one question at a time": lambda: one_by_one(reader, lines), **kinds}
            found: dict[str, list[Measured]] = {name: [] for name in kinds}
            for measure in kinds.values():
                measure()  # warm
            for name in [*kinds, *reversed(kinds)]:
                found[name].append(kinds[name]())
        found["predict called for each"] = [whole_predict(run, lines[:3])]
        report(arguments, lines, reader, found)


def make_run(run: Path, layers: int, width: int) -> None:
    """A run's folder with a model that has seen one update."""
    make_sample(run / "sample", passages=40)
    (run / "race").mkdir()
    unpack(run / "sample" / "RACE.tar.gz", run / "race")
    preprocess(PreprocessConfig(run / "race", run / "text"))
    (run / "sample" / "bpe").rename(run / "bpe")
    binarize(BinarizeConfig(run / "text", run / "bpe", run / "data", workers=1))
    shape = Shape(layers, width, 4 * width, max(1, width // 64), 512)
    symbols = (run / "bpe" / "dict.txt").read_text().count("\n")
    (run / "pretrained.pt").write_bytes(make_checkpoint(symbols, 1, shape))
    train(
        TrainConfig(
            run / "data",
            run / "pretrained.pt",
            run / "model",
            arch="roberta_base",
            precision="fp32",
            processes=1,
            max_updates=1,
            save_optimizer=False,
            **vars(shape),
        )
    )


def make_questions(run: Path, words: int, count: int) -> list[bytes]:
    """Questions of the sample's words with lengths as spread as RACE's."""
    text = (run / "text" / "train.input0").read_text().split()
    rng = random.Random(1)

    def some(mean: float) -> str:
        number = max(1, round(rng.lognormvariate(-0.08, 0.4) * mean))
        return " ".join(rng.choices(text, k=number))

    return [
        strict_json.dumps(
            {"article": some(words), "question": some(8), "options": [some(5) for _ in range(4)]}
        ).encode()
        for _ in range(count)
    ]


def one_by_one(reader: Reader, lines: list[bytes]) -> Measured:
    each, before = [], time.process_time()
    for line in lines:
        started = time.perf_counter()
        questions = parse_line(1, line, 4)
        for answer in reader.answers(reader.read(questions), 16384):
            strict_json.dumps(answer.fields())
        each.append(time.perf_counter() - started)
    return Measured(sum(each), time.process_time() - before, each)


def whole_predict(run: Path, lines: list[bytes]) -> Measured:
    each, before = [], time.process_time()
    for line in lines:
        (run / "one.jsonl").write_bytes(line)
        started = time.perf_counter()
        with contextlib.redirect_stdout(io.StringIO()):
            predict(PredictConfig(run, input=run / "one.jsonl"))
        each.append(time.perf_counter() - started)
    return Measured(sum(each), time.process_time() - before, each)


@contextlib.contextmanager
def served(run: Path) -> Iterator[tuple[int, int]]:
    """The port and the process of a server."""
    command = [sys.executable, "-m", "components.serve", f"--model={run}", "--port=0"]
    with (run / "log").open("wb") as log:
        process = subprocess.Popen(command, stderr=log, cwd=ROOT, env=os.environ)
    try:
        while not (found := re.search(r"ready at .*:(\d+)", (run / "log").read_text())):
            if process.poll() is not None:
                raise SystemExit((run / "log").read_text())
            time.sleep(0.05)
        yield int(found[1]), process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


async def ask_all(lines: list[bytes], port: int, pid: int, clients: int) -> Measured:
    left, each = iter(lines), []
    started, cpu = time.perf_counter(), cpu_seconds(pid)

    async def client() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for line in left:
            begun = time.perf_counter()
            head = f"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: {len(line)}\r\n"
            writer.write(f"{head}Content-Type: application/json\r\n\r\n".encode() + line)
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            length = re.search(r"content-length: (\d+)", head)
            assert " 200 " in head
            assert length
            json.loads(await reader.readexactly(int(length[1])))
            each.append(time.perf_counter() - begun)
        writer.close()

    await asyncio.gather(*(client() for _ in range(clients)))
    return Measured(time.perf_counter() - started, cpu_seconds(pid) - cpu, each)


def report(
    arguments: argparse.Namespace,
    lines: list[bytes],
    reader: Reader,
    found: dict[str, list[Measured]],
) -> None:
    sequences = [
        len(sequence)
        for line in lines
        for sequence in reader.read(parse_line(1, line, 4))[0].sequences
    ]
    print(
        f"{arguments.layers} layers of width {arguments.width}, {reader.model.precision} on"
        f" {reader.model.device}; {len(lines)} questions of 4 sequences of"
        f" {sum(sequences) / len(sequences):.0f} tokens (mean); load average"
        f" {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores\n"
    )
    print("| | questions/s | questions/CPU s | p50 ms | p99 ms | times the loop's | in CPU time |")
    print("|---|---|---|---|---|---|---|")
    rates = {
        name: [
            sum(len(one.each) for one in some) / sum(costs)
            for costs in zip(*((o.wall, o.cpu) for o in some), strict=True)
        ]
        for name, some in found.items()
    }
    base = rates["one question at a time"]
    for name, some in found.items():
        each = sorted(1000 * second for one in some for second in one.each)
        wall, cpu = rates[name]
        print(
            f"| {name} | {wall:.3g} | {cpu:.3g} | {each[len(each) // 2]:.1f}"
            f" | {each[len(each) * 99 // 100]:.1f} | {wall / base[0]:.2g} | {cpu / base[1]:.2g} |"
        )


if __name__ == "__main__":
    main()
