"""The HTTP API and the page as one ASGI application. FastAPI is needed where this module is imported."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from importlib import resources
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO, TypeVar

from fastapi import FastAPI, File, Form, Path, Query, Request, Response, UploadFile
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from mrl.errors import MRLError
from mrl.serving import service as answers
from mrl.serving.api_page import api_page
from mrl.serving.gate import Gate, Limits, Refusal, error_body, refusal_of
from mrl.serving.service import MOST_CANDIDATES, VoiceService
from mrl.version import __version__

if TYPE_CHECKING:
    from starlette.types import ASGIApp


# The files of the page, by the addresses that they are served under. No address is ever turned into a path.


_HTML, _CSS, _SCRIPT = "text/html; charset=utf-8", "text/css; charset=utf-8", "text/javascript; charset=utf-8"


PAGE_FILES = {"/": ("index.html", _HTML), "/page.css": ("page.css", _CSS), "/page.js": ("page.js", _SCRIPT)}
"""Name in the package's data and media type of each."""


def page_file(address: str) -> tuple[bytes, str]:
    """Return content and media type of one of the :data:`PAGE_FILES`."""
    name, kind = PAGE_FILES[address]
    return (resources.files("mrl.serving") / "page" / name).read_bytes(), kind


logger = logging.getLogger(__name__)


_Answer = TypeVar("_Answer")


_ABOUT = """Enrol voices, verify and identify recordings.

Every request but `GET /api/health` carries the token that `mrl serve` printed: `Authorization: Bearer TOKEN`.
Recordings are wav, flac, ogg, opus, mp3, m4a, aac, aiff, caf or webm. An error is `{"error": "one line"}`.
"""


_NAME = "Of the voice."


_RECORDING = "A recording of one speaker."


def create_app(service: VoiceService, *, token: str, hosts: frozenset[str] | None, limits: Limits, workers: Executor) -> ASGIApp:
    """Return the application.

    Args:
        service: the model and the store.
        token: that requests must carry.
        hosts: names by which the server may be called; None: any.
        limits: on requests.
        workers: in which recordings are decoded and embedded; requests beyond ``limits.max_requests`` are refused, so that what
            waits for them is bounded.
    """
    app = FastAPI(
        title="redimnet-mrl",
        version=__version__,
        description=_ABOUT,
        docs_url=None,  # FastAPI's own pages load their program from elsewhere
        redoc_url=None,
        redirect_slashes=False,
        responses={code: {"model": answers.Error} for code in (400, 401, 408, 413, 415, 422, 503)},
    )
    _answer_errors(app, service)
    _add_pages(app)

    async def work(task: Callable[[], _Answer]) -> _Answer:
        return await asyncio.get_running_loop().run_in_executor(workers, task)

    # What changes the store has a thread of its own: while it waits for another process, searches go on.
    writer = ThreadPoolExecutor(1, thread_name_prefix="mrl-write")

    async def write(task: Callable[[], _Answer]) -> _Answer:
        return await asyncio.get_running_loop().run_in_executor(writer, task)

    conflict: dict[int | str, dict[str, Any]] = {409: {"model": answers.Error}}
    missing: dict[int | str, dict[str, Any]] = {404: {"model": answers.Error}}

    @app.get("/api/health", summary="Does the server live?")
    async def health() -> answers.Health:
        return answers.Health(status="ok")

    @app.get("/api/model", summary="What recordings are compared by")
    async def model() -> answers.Model:
        return service.model()

    @app.get("/api/voices", summary="Enrolled voices")
    async def voices(
        offset: Annotated[int, Query(ge=0, le=2**31, description="Voices to leave out at the start.")] = 0,
        limit: Annotated[int, Query(ge=1, le=10_000, description="Voices to list, at most.")] = 1000,
    ) -> answers.Voices:
        return await work(lambda: service.voices(offset, limit))

    @app.delete("/api/voices/{name:path}", status_code=204, summary="Delete a voice and every trace of it", responses=missing)
    async def remove(name: Annotated[str, Path(description=_NAME)]) -> None:
        await write(lambda: service.remove(name))

    @app.delete("/api/voices", status_code=204, summary="Delete a voice whose name cannot be part of a path", responses=missing)
    async def remove_by_query(name: Annotated[str, Query(description=_NAME)]) -> None:
        await write(lambda: service.remove(name))

    @app.post("/api/enrol", status_code=201, summary="Enrol a voice from recordings", responses={**missing, **conflict})
    async def enrol(
        name: Annotated[str, Form(description=_NAME)],
        files: Annotated[list[UploadFile], File(description="Recordings of one speaker; longer ones weigh more.")],
        add: Annotated[bool, Form(description="Add the recordings to a voice that is enrolled.")] = False,
    ) -> answers.Enrolled:
        if len(files) > limits.max_files:
            raise Refusal(413, f"a request may have {limits.max_files} recordings at most, this one has {len(files)}")
        opened = [file.file for file in files]
        embedded = await work(lambda: service.embed_for(name, [_read(file) for file in opened], extend=add))
        return await write(lambda: service.enrol(name, embedded, extend=add))

    @app.post("/api/verify", summary="Is this the voice?", responses=missing)
    async def verify(
        name: Annotated[str, Form(description=_NAME)], file: Annotated[UploadFile, File(description=_RECORDING)]
    ) -> answers.Verified:
        return await work(lambda: service.verify(name, _read(file.file)))

    @app.post("/api/identify", summary="Whose voice is this?", responses=conflict)
    async def identify(
        file: Annotated[UploadFile, File(description=_RECORDING)],
        top: Annotated[int, Form(ge=1, le=MOST_CANDIDATES, description="How many voices to tell.")] = 5,
    ) -> answers.Identified:
        return await work(lambda: service.identify(_read(file.file), top))

    return Gate(app, token=token, hosts=hosts, limits=limits)


def _read(file: BinaryIO) -> bytes:
    file.seek(0)
    return file.read()


def _add_pages(app: FastAPI) -> None:
    for path in PAGE_FILES:
        app.add_api_route(path, _serving(path), methods=["GET"], include_in_schema=False)

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return Response(api_page(app.openapi()), media_type="text/html; charset=utf-8")


def _serving(path: str) -> Callable[[], Awaitable[Response]]:
    async def send_file() -> Response:
        content, kind = page_file(path)
        return Response(content, media_type=kind)

    return send_file


def _answer_errors(app: FastAPI, service: VoiceService) -> None:
    def answer(refusal: Refusal) -> Response:
        return Response(error_body(str(refusal)), refusal.status, refusal.headers, "application/json")

    @app.exception_handler(MRLError)
    async def known(request: Request, error: MRLError) -> Response:
        refusal = refusal_of(error, service.store_path)
        if refusal.status >= 500:
            logger.error("%s %s: %s", request.method, request.scope["route"].path, error)
        return answer(refusal)

    @app.exception_handler(HTTPException)
    async def by_framework(request: Request, error: HTTPException) -> Response:
        return answer(Refusal(error.status_code, str(error.detail), error.headers))

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        # Without the values sent, which may be whole recordings.
        said = "; ".join(
            f"{'.'.join(str(part) for part in problem['loc'][1:])}: {problem['msg']}" for problem in error.errors()[:5]
        )
        return answer(Refusal(422, said or "the request is not as the API describes it (/docs)"))

    @app.exception_handler(Exception)
    async def unknown(request: Request, error: Exception) -> Response:
        # The server logs the traceback itself once this is answered. The security headers are added by the gate.
        return answer(Refusal(500, "the server has met an error of its own; its log has the details"))
