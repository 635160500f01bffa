"""The HTTP interface of an index, and the page that uses it."""

import asyncio
from collections.abc import Sequence
from importlib import resources
from typing import Annotated, Any

from fastapi import FastAPI, File, Query, Request, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from largescale.corpus.decoding.pixels import BadImageError, decoding, open_picture
from largescale.search.find import Options
from largescale.search.index import Index
from largescale.search.server.batcher import Add, Batcher, Embed, PictureRequest, RequestError, SearchRequest
from largescale.search.server.config import ServeConfig
from largescale.search.server.guard import App, Guard
from largescale.search.server.metrics import Metrics
from largescale.settings import UserError

PICTURES = 16
"""Of one request."""
PAGE = {"/": ("index.html", "text/html"), "/page.css": ("page.css", "text/css"), "/page.js": ("page.js", "text/javascript")}
PAGE |= {"/icon.svg": ("icon.svg", "image/svg+xml")}
Uploads = Annotated[
    list[UploadFile], File(description=f"up to {PICTURES} pictures; several are one query, by the mean of their rows")
]


class Asked(Options):
    """A search."""

    key: str | None = Field(default=None, max_length=2000)
    """A picture of the index, in place of uploaded ones."""
    box: str | None = Field(default=None, pattern=r"^-?\d+(\.\d+)?(,-?\d+(\.\d+)?){3}$")
    """x0,y0,x1,y1: the part of the only picture that is looked for, in pixels of the upright picture."""


class Named(BaseModel):
    """What a new picture is called."""

    key: str = Field(min_length=1, max_length=2000, pattern=r"^[^\x00-\x1f\x7f]+$")
    """Its name in the index; one that is not there yet."""
    label: str | None = Field(default=None, max_length=2000)


class HitAnswer(BaseModel):
    """A picture of the index."""

    score: float
    key: str
    label: str | None
    width: int | None
    height: int | None
    inliers: int | None
    """Local features that agree with the query's; null: none were compared."""


class SearchAnswer(BaseModel):
    """Most similar first."""

    hits: list[HitAnswer]


class EmbedAnswer(BaseModel):
    """A row for each picture."""

    rows: list[list[float]]
    metric: str
    model: str | None


class Count(BaseModel):
    """Pictures of the index."""

    rows: int


class Health(Count):
    """What is served."""

    dim: int
    metric: str
    model: str | None
    index: str
    recall: float | None


class Server:
    """The interface of one index.

    Args:
        index: with its model.
        token: see `Guard`.
    """

    def __init__(self, index: Index, config: ServeConfig, token: str | None = None) -> None:
        self.index, self.config, self.metrics, self.batcher = index, config, Metrics(), Batcher(index)
        self.reader = Index.open(index.folder)
        app = FastAPI(title="largescale search", version="1", docs_url=None, redoc_url=None)
        for path, (name, kind) in PAGE.items():
            app.get(path, include_in_schema=False)(_file(name, kind))
        app.post("/search")(self.search)
        app.post("/embed")(self.embed)
        app.post("/add")(self.add)
        app.get("/thumbnail", response_class=Response)(self.thumbnail)
        app.get("/health")(self.health)
        app.get("/metrics", response_class=PlainTextResponse)(self.text)
        app.exception_handler(UserError)(_refused)
        app.exception_handler(RequestValidationError)(_invalid)
        app.exception_handler(HTTPException)(_unknown)
        app.exception_handler(Exception)(_failed)
        self.openapi = app.openapi
        self.app: App = Guard(app, token, int(config.max_mb * 2**20), config.timeout, self.metrics)  # type: ignore[arg-type]

    async def search(self, asked: Annotated[Asked, Query()], pictures: Uploads = []) -> SearchAnswer:  # noqa: B006
        """The pictures of the index that are most like the uploaded ones, or like one of the index (`key`)."""
        if bool(pictures) == (asked.key is not None):
            raise RequestError(400, "send pictures, or the key of one that is in the index, and not both")
        if asked.box is not None and len(pictures) > 1:
            raise RequestError(400, "a box belongs to one picture; cut the others before they are sent")
        box = None if asked.box is None else [float(x) for x in asked.box.split(",")]
        options = Options(**asked.model_dump(include=set(Options.model_fields)))
        hits = await self._done(SearchRequest(await self._read(pictures), box, key=asked.key, options=options))
        return SearchAnswer(hits=[HitAnswer(**{name: getattr(hit, name) for name in HitAnswer.model_fields}) for hit in hits])

    async def embed(self, pictures: Uploads) -> EmbedAnswer:
        """The rows of pictures, by the model of the index."""
        rows = await self._done(Embed(await self._read(pictures)))
        manifest = self.index.view.manifest
        return EmbedAnswer(rows=rows.tolist(), metric=manifest.metric, model=manifest.model)

    async def add(self, named: Annotated[Named, Query()], picture: Annotated[UploadFile, File()]) -> Count:
        """Keep a picture: answered when it is on disk. Its row and a small picture are kept, not its file."""
        return Count(rows=await self._done(Add(await self._read([picture]), key=named.key, label=named.label)))

    async def thumbnail(self, key: str) -> Response:
        """A small JPEG of a picture of the index."""
        data = await asyncio.to_thread(lambda: self.reader.refresh().thumbnail(key))
        if data is None:
            raise RequestError(404, f"there is no picture of {key!r} in the index")
        return Response(data, media_type="image/jpeg")

    def health(self) -> Health:
        """What is served."""
        manifest = self.index.view.manifest
        kind = manifest.kind
        return Health(
            rows=manifest.rows,
            dim=manifest.dim,
            metric=manifest.metric,
            model=manifest.model,
            index=kind.index,
            recall=kind.recall,
        )

    def text(self) -> PlainTextResponse:
        """Counters for Prometheus."""
        batcher = self.batcher
        gauges: dict[str, float] = {"rows": len(self.index), "waiting": batcher.waiting, "batches_total": batcher.batches}
        gauges |= {"pictures_total": batcher.pictures, "batch_seconds_total": batcher.seconds}
        return PlainTextResponse(self.metrics.text(gauges))

    async def _done(self, job: PictureRequest) -> Any:
        return await asyncio.wrap_future(self.batcher.submit(job))

    async def _read(self, pictures: Sequence[UploadFile]) -> list[bytes]:
        """Encoded pictures, none larger than is allowed; they are not decoded here."""
        if len(pictures) > PICTURES:
            raise RequestError(413, f"{len(pictures)} pictures in one request, {PICTURES} are allowed: send several requests")
        read = [await picture.read() for picture in pictures]
        for data in read:
            check_pixels(data, self.config.max_megapixels)
        return read


def check_pixels(data: bytes, most: float) -> None:
    """Refuse, by its header alone, what is no picture, or has more megapixels than `most`."""
    try:
        with decoding():
            width, height = open_picture(data).size
    except BadImageError as error:
        raise RequestError(422, f"the picture cannot be used: {error}") from None
    if width * height > most * 1e6:
        raise RequestError(413, f"the picture has {width} x {height} pixels, more than {most:g} megapixels (max_megapixels)")


def _file(name: str, kind: str) -> Any:
    content = resources.files("largescale.search.server").joinpath("page", name).read_bytes()

    async def file() -> Response:
        return Response(content, media_type=kind)

    return file


async def _refused(request: Request, error: Any) -> JSONResponse:
    return JSONResponse({"error": str(error)}, error.status if isinstance(error, RequestError) else 503)


async def _invalid(request: Request, error: Any) -> JSONResponse:
    faults = [
        f"{'.'.join(str(part) for part in fault['loc'][1:]) or fault['loc'][0]}: {fault['msg']}" for fault in error.errors()
    ]
    return JSONResponse({"error": "; ".join(faults)}, 422)


async def _unknown(request: Request, error: Any) -> JSONResponse:
    message = (
        f"{request.method} {request.url.path} is not here; /openapi.json lists what is"
        if error.status_code in (404, 405)
        else error.detail
    )
    return JSONResponse({"error": message}, error.status_code, error.headers)


async def _failed(request: Request, error: Any) -> JSONResponse:
    return JSONResponse({"error": "the server failed on this request; its log says why"}, 500)
