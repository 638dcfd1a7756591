"""The service's HTTP and WebSocket interface; /docs describes it in the browser."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from fastapi import Depends, FastAPI, HTTPException, Query, Request, Response, WebSocket, WebSocketDisconnect
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse
from fastapi.sse import EventSourceResponse, ServerSentEvent
from fastapi_offline import FastAPIOffline
from starlette.requests import ClientDisconnect

from jetson_agent.journal import roll_back
from jetson_agent.serve import answers
from jetson_agent.serve.access import SUBPROTOCOL, Access
from jetson_agent.serve.engine import Engine
from jetson_agent.serve.intake import End, Incoming, Rate, Refused, Start, parse, read_samples
from jetson_agent.serve.learning import Learner
from jetson_agent.serve.talk import Conversation
from stages.errors import EdgealignError, InputError

WEB = Path(__file__).parent / "web"
BODY_S = 30.0
"""A recording that takes longer to come in is given up."""
SLACK_BYTES = 1_000_000
"""The framework's own limit lies above ours: it says no why."""
LONGEST_WAIT_S = 600.0
PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}
DESCRIPTION = """Speech in, the LLM's reply out, with the adapter of this device's user. Corrections are learned on the device;
nothing leaves it.

`WebSocket /v1/talk`: `{"type": "start", "rate_hz": 16000}`, then binary messages of 16-bit little-endian mono samples, then
`{"type": "end"}` (or `{"type": "cancel"}`). Back come JSON messages whose `type` is `heard`, `token` (many), `done`, or
`error`; then the next utterance may start. Where a token is needed, it comes as the subprotocol `edgealign.bearer.TOKEN`
beside `edgealign`."""


def create_app(engine: Engine, token: str | None) -> Any:
    """The ASGI application. ``token`` None: none is needed (loopback only)."""
    settings = engine.settings
    learner = Learner(engine, settings.learn_after)
    conversation = Conversation(engine, learner)
    rate = Rate(settings.requests_per_minute)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        learner.start()
        try:
            yield
        finally:
            await asyncio.to_thread(learner.close)
            engine.close()

    app = FastAPIOffline(
        title="edgealign on this device",
        description=DESCRIPTION,
        lifespan=lifespan,
        max_body_size=settings.max_bytes + SLACK_BYTES,
    )
    _add_errors(app)
    _add_page(app)
    _add_turns(app, engine, conversation)
    _add_learning(app, engine, learner, conversation)
    _add_stream(app, engine, conversation, rate)
    return Access(app, token, rate)


def _add_errors(app: FastAPI) -> None:
    """Every refusal is {"detail": one sentence}."""

    @app.exception_handler(Refused)
    async def refused(_: Request, error: Refused) -> Response:
        headers = {"Retry-After": "1"} if error.status == 503 else {}
        return JSONResponse({"detail": str(error)}, error.status, headers)

    @app.exception_handler(InputError)
    async def unusable(_: Request, error: InputError) -> Response:
        return JSONResponse({"detail": str(error)}, 422)

    @app.exception_handler(EdgealignError)
    async def failed(_: Request, error: EdgealignError) -> Response:
        return JSONResponse({"detail": str(error)}, 500)

    @app.exception_handler(RequestValidationError)
    async def malformed(_: Request, error: RequestValidationError) -> Response:
        told = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors()[:3])
        return JSONResponse({"detail": told}, 422)


def _add_page(app: FastAPI) -> None:
    def file(name: str) -> Callable[[], Response]:
        return lambda: FileResponse(WEB / name, headers=PAGE_HEADERS)

    app.add_api_route("/", file("index.html"), include_in_schema=False, response_model=None)
    for name in ("app.js", "capture.js", "style.css"):
        app.add_api_route(f"/{name}", file(name), include_in_schema=False, response_model=None)

    @app.get("/health")
    async def health() -> dict[str, str]:
        """Whether the service is up."""
        return {"status": "ok"}


@dataclass(frozen=True)
class Utterance:
    """(n,) float32 at 16 kHz, and ``time.perf_counter()`` when the whole body was there."""

    samples: np.ndarray
    began: float


async def _body(request: Request, most: int) -> bytes:
    pieces, size = [], 0
    async for piece in request.stream():
        size += len(piece)
        if size > most:
            raise Refused(413, f"the recording has more than {most} bytes: send it in parts, or as FLAC")
        pieces.append(piece)
    return b"".join(pieces)


def _add_turns(app: FastAPI, engine: Engine, conversation: Conversation) -> None:
    recording = {
        "requestBody": {"required": True, "content": {"audio/*": {"schema": {"type": "string", "format": "binary"}}}}
    }

    async def read(request: Request) -> Utterance:
        # a dependency: what is refused here is refused before a stream of events begins
        try:
            content = await asyncio.wait_for(_body(request, engine.settings.max_bytes), BODY_S)
        except asyncio.TimeoutError:
            raise Refused(408, f"the recording did not come in within {BODY_S:g} s") from None
        except ClientDisconnect:
            raise Refused(400, "the recording did not come in whole") from None
        began = time.perf_counter()
        conversation.check_room()
        return Utterance(await asyncio.to_thread(read_samples, content, engine.settings), began)

    said = Depends(read)

    @app.post("/v1/transcriptions", openapi_extra=recording)
    async def transcribe(utterance: Utterance = said) -> answers.Transcription:
        """What the user says in a recording: any format and rate that libsndfile or FFmpeg reads, as the body."""
        return await conversation.transcribe(utterance.samples, utterance.began)

    @app.post("/v1/replies", openapi_extra=recording)
    async def reply(utterance: Utterance = said) -> answers.Reply:
        """The LLM's reply to a recording, whole."""
        async for part in conversation.answer(utterance.samples, utterance.began):
            last = part
        assert isinstance(last, answers.Reply)
        return last

    @app.post("/v1/replies/stream", response_class=EventSourceResponse, openapi_extra=recording)
    async def stream(utterance: Utterance = said) -> AsyncIterator[ServerSentEvent]:
        """The LLM's reply to a recording as server-sent events: `heard`, `token` (many), `done`."""
        async with aclosing(conversation.answer(utterance.samples, utterance.began)) as parts:  # whoever leaves early
            async for part in parts:
                yield ServerSentEvent(event=_kind(part), data=part)


def _kind(part: answers.Transcription | answers.Token) -> str:
    if isinstance(part, answers.Token):
        return "token"
    return "done" if isinstance(part, answers.Reply) else "heard"


def _add_learning(app: FastAPI, engine: Engine, learner: Learner, conversation: Conversation) -> None:
    def learning() -> answers.Learning:
        told = learner.state()
        last = answers.Update(**asdict(told.last)) if told.last else None
        return answers.Learning(state=told.state, waiting=told.waiting_corrections, last=last, error=told.error)

    @app.post("/v1/corrections")
    async def correct(correction: answers.Correction) -> answers.Corrected:
        """What the user really said in an utterance of the last minutes; kept on this device."""
        return await conversation.correct(correction.utterance, correction.text)

    @app.post("/v1/adaptations", status_code=202)
    async def adapt(
        response: Response, wait: bool = Query(False, description="Answer when it ended.")
    ) -> answers.Learning:
        """Learn from the corrections now, in the background; taken only if the guard says so."""
        number = learner.ask()
        if wait:
            if not await asyncio.to_thread(learner.wait, number, LONGEST_WAIT_S):
                raise HTTPException(504, f"the update did not end within {LONGEST_WAIT_S:g} s; see /v1/status")
            response.status_code = 200
        return await asyncio.to_thread(learning)

    @app.post("/v1/rollback")
    async def rollback(why: answers.Rollback) -> answers.InUse:
        """Go back to the adapter's version before, or to the base alone."""
        version = await asyncio.to_thread(roll_back, engine.home, why.why)
        await asyncio.to_thread(engine.refresh)
        return answers.InUse(version=version.number if version else None)

    @app.get("/v1/history")
    def history() -> list[answers.HistoryEvent]:
        """Every update and rollback, oldest first."""
        return [
            answers.HistoryEvent(
                when=event.when, what=event.what, version=event.number, why=event.why, figures=event.figures
            )
            for event in engine.home.history()
        ]

    @app.get("/v1/status")
    def status() -> answers.Status:
        """Whose device this is, what is in use, and what is remembered."""
        replay = engine.replay
        return answers.Status(
            cohort=engine.device.cohort,
            user=engine.device.user,
            version=engine.in_use.version,
            remembered=len(replay.paths()),
            corrections=replay.corrections_since(float("-inf")),
            learning=learning(),
        )


def _add_stream(app: FastAPI, engine: Engine, conversation: Conversation, rate: Rate) -> None:
    settings = engine.settings

    @app.websocket("/v1/talk")
    async def talk(socket: WebSocket) -> None:
        await socket.accept(SUBPROTOCOL if SUBPROTOCOL in socket.scope.get("subprotocols", []) else None)
        incoming: Incoming | None = None
        address = socket.client.host if socket.client else "unknown"
        try:
            while True:
                message = await asyncio.wait_for(socket.receive(), settings.idle_s)
                if message["type"] == "websocket.disconnect":
                    return
                try:
                    incoming = await _take(message, incoming, socket, address)
                except Refused as error:
                    incoming = None
                    await socket.send_json({"type": "error", "status": error.status, "detail": str(error)})
        except asyncio.TimeoutError:
            await socket.close(1001, f"nothing came for {settings.idle_s:g} s")
        except WebSocketDisconnect:
            return

    async def _take(message: Any, incoming: Incoming | None, socket: WebSocket, address: str) -> Incoming | None:
        """One message of a client; gives the utterance that is coming in from then on."""
        if message.get("bytes") is not None:
            if incoming is None:
                raise Refused(400, 'samples came before {"type": "start"}')
            incoming.add(message["bytes"])
            return incoming
        told = parse(message["text"])
        if isinstance(told, Start):
            rate.check(address)
            return Incoming(told.rate_hz, settings)
        if isinstance(told, End):
            if incoming is None:
                raise Refused(400, '{"type": "end"} came before {"type": "start"}')
            began = time.perf_counter()
            samples = await asyncio.to_thread(incoming.samples)
            async with aclosing(conversation.answer(samples, began)) as parts:
                async for part in parts:
                    await socket.send_json({"type": _kind(part), **part.model_dump()})
        return None
