"""What the server answers, and what it refuses: JSON with one line, "error", and a status."""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import parse_qs

import h11
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route
from uvicorn.protocols.http.h11_impl import H11Protocol

from components.common import strict_json
from components.common.errors import RaceError, one_line
from components.common.report.page import render
from components.predict.questions import Question, read_fields
from components.preprocess.passage import InvalidPassage
from components.serve.batcher import Batcher
from components.serve.config import ServeConfig

logger = logging.getLogger(__name__)

NAME = "race"  # of the model, in KServe's addresses
FORM = 'Give {"article": "...", "question": "...", "options": ["...", "..."]}'
JSON_TYPE, FORM_TYPE = "application/json", "application/x-www-form-urlencoded"
# Text grows when an option takes the place of an underscore, and a passage that of each question.
GROWTH = 4


def make_app(config: ServeConfig, batcher: Batcher) -> Starlette:
    """The application; `batcher` answers."""
    service = Service(config, batcher)
    model = f"/v1/models/{NAME}"
    return Starlette(
        routes=[
            Route("/", service.page, methods=["GET"]),
            Route("/", service.form, methods=["POST"]),
            Route("/healthz", service.alive, methods=["GET"]),
            Route("/readyz", service.ready, methods=["GET"]),
            Route("/predict", service.predict, methods=["POST"]),
            Route("/v1/models", service.models, methods=["GET"]),
            Route(model, service.ready, methods=["GET"]),
            Route(f"{model}:predict", service.kserve, methods=["POST"]),
        ],
        exception_handlers={HTTPException: _refused},
    )


class Service:
    """The handlers; `under_way` counts the requests that wait for an answer."""

    def __init__(self, config: ServeConfig, batcher: Batcher) -> None:
        self.config, self.batcher = config, batcher
        self.under_way = 0

    async def alive(self, request: Request) -> Response:
        return _json({"status": "alive"})

    async def ready(self, request: Request) -> Response:
        ready = self.batcher.reader is not None
        return _json({"name": NAME, "ready": ready}, 200 if ready else 503)

    async def models(self, request: Request) -> Response:
        return _json({"models": [NAME]})

    async def predict(self, request: Request) -> Response:
        async with self._admitted():
            given = await self._json_body(request)
            found = await self._answers(request, given if type(given) is list else [given])
            return _json(found if type(given) is list else found[0])

    async def kserve(self, request: Request) -> Response:
        async with self._admitted():
            given = await self._json_body(request)
            instances = given.get("instances") if type(given) is dict else None
            if type(instances) is not list:
                raise HTTPException(422, 'no list "instances". Give {"instances": [...]}')
            return _json({"predictions": await self._answers(request, instances)})

    async def page(self, request: Request) -> Response:
        return _page()

    async def form(self, request: Request) -> Response:
        """A question that was asked by hand, and its answer, in a page."""
        asked: dict[str, str] = {}
        try:
            async with self._admitted():
                body = await self._body(request, FORM_TYPE)
                try:
                    fields = parse_qs(body.decode(), keep_blank_values=True, max_num_fields=10)
                except ValueError:
                    raise HTTPException(400, "not a form's fields. Use the page") from None
                asked = {name: values[0] for name, values in fields.items()}
                options = [
                    o for line in asked.get("options", "").splitlines() if (o := line.strip())
                ]
                question = {name: asked.get(name, "") for name in ("article", "question")}
                (answer,) = await self._answers(request, [question | {"options": options}])
        except HTTPException as error:
            return _page(asked, error=one_line(error.detail), status=error.status_code)
        return _page(asked, options, answer)

    @contextlib.asynccontextmanager
    async def _admitted(self) -> AsyncIterator[None]:
        if self.batcher.reader is None:
            raise _later("the model is not loaded yet")
        if self.under_way >= self.config.max_queue:
            raise _later(f"{self.under_way} of {self.config.max_queue} requests are under way")
        self.under_way += 1
        try:
            yield
        finally:
            self.under_way -= 1

    async def _json_body(self, request: Request) -> Any:
        body = await self._body(request, JSON_TYPE)
        try:
            return strict_json.loads(body)
        except UnicodeDecodeError as error:
            raise HTTPException(400, f"not UTF-8 at byte {error.start}. {FORM}") from None
        except ValueError as error:
            raise HTTPException(400, f"not JSON: {error}. {FORM}") from None

    async def _body(self, request: Request, kind: str) -> bytes:
        given, _, rest = request.headers.get("content-type", "").lower().partition(";")
        charset = rest.replace('"', "").strip() or "charset=utf-8"
        if given.strip() != kind or charset != "charset=utf-8":
            what = f"Content-Type is {given + rest or 'missing'!r:.80}"
            raise HTTPException(415, f"{what}. Send {kind} in UTF-8")
        if coding := request.headers.get("content-encoding"):
            raise HTTPException(415, f"Content-Encoding is {coding!r:.80}. Send the body as it is")
        most = self.config.max_body
        too_large = HTTPException(413, f"the body has more than {most:,} bytes. Send less at once")
        if int(request.headers.get("content-length", 0)) > most:
            raise too_large
        body = bytearray()
        try:
            async with asyncio.timeout(self.config.timeout):
                async for part in request.stream():
                    body += part
                    if len(body) > most:
                        raise too_large
        except TimeoutError:
            raise HTTPException(408, "the body did not come in time. Send it again") from None
        except ClientDisconnect:
            raise HTTPException(400, "the request broke off. Send it again") from None
        return bytes(body)

    def _questions(self, number: int, fields: Any) -> list[Question]:
        """What an element of a request asks."""
        if type(fields) is not dict:
            raise HTTPException(422, f"question {number}: no object. {FORM}")
        assert self.batcher.reader is not None
        usual, most = self.batcher.reader.model.options, GROWTH * self.config.max_body
        try:
            return read_fields(number, fields, usual, most)
        except InvalidPassage as error:
            raise HTTPException(422, f"question {number}: {error}. {FORM}") from None

    async def _answers(self, request: Request, items: list[Any]) -> list[Any]:
        """The answer to each element; a list of them for one that has several questions."""
        started, most = time.monotonic(), self.config.max_questions
        asked: list[list[Question]] = []
        for number, fields in enumerate(items, start=1):
            if len(items) <= most:
                asked.append(self._questions(number, fields))
            if max(len(items), sum(map(len, asked))) > most:
                raise HTTPException(413, f"more than {most} questions. Send fewer at once")
        together = [question for questions in asked for question in questions]
        answers = iter(await self._answered(together) if together else [])
        found = []
        for fields, questions in zip(items, asked, strict=True):
            several = [next(answers) for _ in questions]
            found.append(several[0] if "question" in fields else several)
        took = 1000 * (time.monotonic() - started)
        logger.info("POST %s: %d questions in %.1f ms", request.url.path, len(together), took)
        return found

    async def _answered(self, questions: list[Question]) -> list[dict[str, Any]]:
        try:
            async with asyncio.timeout(self.config.timeout):
                return await asyncio.wrap_future(self.batcher.ask(questions))
        except TimeoutError:
            raise _later(f"there was no answer within {self.config.timeout:g} s") from None
        except RaceError as error:
            raise HTTPException(500, str(error)) from error
        except Exception as error:  # a defect, or a full memory: not for strangers to read
            logger.exception("%s: %s", type(error).__name__, one_line(str(error)))
            what = "the model could not answer; the server's log says why. Ask less at once"
            raise HTTPException(500, what) from error


class JsonErrors(H11Protocol):  # type: ignore[misc, unused-ignore]
    """What is no HTTP is refused as everything else is."""

    def send_400_response(self, msg: str) -> None:
        refused = _json({"error": f"{msg} Send HTTP/1.1"}, 400, {"connection": "close"})
        for event in (
            h11.Response(status_code=400, headers=refused.raw_headers, reason=b"Bad Request"),
            h11.Data(data=bytes(refused.body)),
            h11.EndOfMessage(),
        ):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()


def _later(why: str) -> HTTPException:
    return HTTPException(503, f"{why}. Try again later", {"Retry-After": "1"})


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    here, detail = one_line(f"{request.method} {request.url.path:.100}"), one_line(error.detail)
    if error.status_code in (404, 405):
        detail = f"{here}: {detail.lower()}. Use POST /predict or POST /v1/models/{NAME}:predict"
    logger.warning("%s: %d %s", here, error.status_code, detail)
    return _json({"error": detail}, error.status_code, error.headers)


def _json(value: Any, status: int = 200, headers: Any = None) -> Response:
    return Response(strict_json.dumps(value), status, headers, JSON_TYPE)


def _page(
    asked: dict[str, str] | None = None,
    options: list[str] | None = None,
    answer: dict[str, Any] | None = None,
    error: str = "",
    status: int = 200,
) -> Response:
    asked = asked or {}
    page = render(
        "components/serve/templates/ask.html",
        asked={name: asked.get(name, "") for name in ("article", "question", "options")},
        options=options,
        answer=answer,
        error=error,
    )
    return HTMLResponse(page, status)
