"""The parameters of serve."""

from dataclasses import dataclass
from pathlib import Path

from components.common import cli
from components.common.device import DEVICE_HELP, Device
from components.evaluate.model import PRECISION_HELP, Precision
from components.evaluate.trained import BPE_HELP, MODEL_HELP


@dataclass(frozen=True)
class ServeConfig:
    """Which model answers, where, and how much it takes on.

    Raises:
        ConfigError: a value is out of its range.
    """

    model: Path = cli.option(help=MODEL_HELP)
    bpe: Path | None = cli.option(None, help=BPE_HELP)
    host: str = cli.option("127.0.0.1", help="address to listen at; 0.0.0.0 is all of this machine")
    port: int = cli.option(8080, below=65536, help="port to listen at; 0 takes a free one")
    max_batch_tokens: int = cli.option(
        16384, least=1, help="tokens that are computed at once; memory grows with it"
    )
    max_wait_ms: float = cli.option(
        5.0,
        below=10_000,
        help="milliseconds that a request waits for others to be computed with it",
    )
    max_questions: int = cli.option(64, least=1, help="questions in a request")
    max_body: int = cli.option(1 << 20, least=1, help="bytes of a request's body")
    max_queue: int = cli.option(
        256, least=1, help="requests that are under way at once; more are told to try again"
    )
    timeout: float = cli.option(
        60.0, least=0.001, below=86_400, help="seconds that a request may take"
    )
    device: Device = cli.option("auto", help=DEVICE_HELP)
    precision: Precision = cli.option("auto", help=PRECISION_HELP)

    def __post_init__(self) -> None:
        cli.require_ranges(self)
