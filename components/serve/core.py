"""Answer questions over HTTP with a trained model: the server's start and end."""

import contextlib
import logging
import os
import socket

from components.common.cli import Terminated, explain_os_error
from components.common.errors import ConfigError
from components.evaluate.trained import Trained, as_run, find_trained
from components.predict.core import Reader
from components.serve.batcher import Batcher
from components.serve.config import ServeConfig

logger = logging.getLogger(__name__)


def serve(config: ServeConfig) -> None:
    """Answer requests until SIGTERM or Ctrl-C, then those that are under way.

    Raises:
        ConfigError: the address cannot be listened at, fp16 was asked for without a GPU, or there
            is no BPE.
        DataError: the model or its BPE is missing, damaged, or does not fit the other.
        OSError: a Hugging Face model cannot be unpacked.
    """
    # Threads of torch that spin while they wait take the cores from those that answer: see
    # benchmarks/RESULTS.md. It is read when torch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    with as_run(config.model) as model:
        _serve(config, find_trained(model, config.bpe))


def _serve(config: ServeConfig, trained: Trained) -> None:
    import uvicorn

    from components.serve.app import JsonErrors, make_app

    listener = _listening(config)
    host, port = listener.getsockname()[:2]

    def load() -> Reader:
        return Reader(trained, config.precision, config.device)

    def ready(reader: Reader) -> None:
        what = f"{config.model}, {reader.model.precision} on {reader.model.device}"
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        logger.info("ready at http://%s (%s)", address, what)

    def failed() -> None:
        server.should_exit = True

    batcher = Batcher(load, config.max_batch_tokens, config.max_wait_ms / 1000, ready, failed)
    settings = uvicorn.Config(
        make_app(config, batcher),
        http=JsonErrors,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=round(config.timeout) + 1,
    )
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    server = uvicorn.Server(settings)
    batcher.start()
    # uvicorn raises the signal that ended it again.
    with contextlib.suppress(Terminated, KeyboardInterrupt):
        server.run(sockets=[listener])
    batcher.stop()
    logger.info("stopped")


def _listening(config: ServeConfig) -> socket.socket:
    try:
        family, *_, address = socket.getaddrinfo(
            config.host, config.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.create_server(address, family=family, backlog=2048)
        # For its connections: or else an answer's body waits 40 ms for the head to be acknowledged.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return listener
    except (OSError, UnicodeError) as error:
        known = explain_os_error(error) if isinstance(error, OSError) else None
        raise ConfigError(
            f"cannot listen at {config.host}:{config.port}: {known.what if known else error}",
            hint="Choose another --host or --port, or end what listens there",
        ) from None
