"""The walls between projects, put up around the routes: what a caller of one project names is checked, what it gets is sifted."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends, Request

from ltp.core.errors import ErrorCode, LtpError
from ltp.security.identity import DEFAULT_PROJECT, Principal
from ltp.service.runtime import Runtime
from ltp.store.acting import ACTING
from ltp.store.database import Unit
from services.gateway import store_owners as store
from services.gateway import tenancy
from services.gateway.errors import problem_response
from services.gateway.settings import GatewaySettings

Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
# Facts by which a name is taken, and of what kind the name is.
_NAMING = {
    "ltp.schedule.v1.submitted": "schedule",
    "ltp.pipeline.v1.arming-requested": "pipeline",
    "ltp.operation.v1.requested": "model",
}


def principal_of(request: Request) -> Principal:
    """Who asks; the door has made sure that somebody does."""
    principal: Principal = request.state.principal
    return principal


Caller = Annotated[Principal, Depends(principal_of)]


@dataclass(frozen=True)
class Walls:
    """The walls of one gateway."""

    runtime: Runtime

    async def check(self, request: Request) -> None:
        """Refuse what names something of another project, as if it were not there. Raises NOT_FOUND, FORBIDDEN."""
        principal = principal_of(request)
        if principal.project is None:
            return
        must, other = tenancy.in_path(request.url.path, request.path_params)
        root = self.runtime.settings.root()
        for said in (_query(request), await _body(request)):
            other |= set(tenancy.in_body(said, root / "models"))
            self._refuse_paths(said)
            if strangers := set(tenancy.projects_in(said)) - {principal.project}:
                message = f"Your token is of project {principal.project}, not of {min(strangers)[:100]}."
                raise LtpError(ErrorCode.FORBIDDEN, message, "Leave `project` out.")
        project = request.path_params.get("project")
        if isinstance(project, str) and project != principal.project:
            raise _nothing(project)
        await self.refuse_foreign(principal.project, must, other)

    async def refuse_foreign(self, project: str, must: Iterable[str], other: Iterable[str]) -> None:
        """`must` belong to the project; `other` must not belong to another. Raises NOT_FOUND."""
        must, other = set(must), set(other)
        found = await store.owners_of(self.runtime.database.engine, must | other)
        for noun in sorted(must | other):
            # What nobody claimed was there before projects were: the default one's.
            owner = found.get(noun, DEFAULT_PROJECT if noun in must else project)
            if owner != project:
                raise _nothing(noun)

    async def around(self, app: Any, scope: Any, receive: Any, send: Send, principal: Principal) -> None:
        """Run the application; of JSON answers, only what is the caller's project's gets out."""
        start: MutableMapping[str, Any] | None = None
        body = bytearray()

        async def sifted(message: MutableMapping[str, Any]) -> None:
            nonlocal start
            if message["type"] == "http.response.start" and _is_json(message):
                start = message
            elif start is None:
                await send(message)
            else:
                body.extend(message.get("body", b""))
                if not message.get("more_body"):
                    await self._send_sifted(scope, receive, send, start, bytes(body), principal)

        await app(scope, receive, sifted)

    async def whose(self, items: list[Any], project: str) -> list[bool]:
        """Of each, whether an answer to a caller of the project would show it."""
        foreign = await self._foreign_in(items, project)
        return [tenancy.without(item, foreign, project)[1] for item in items]

    async def note(self, unit: Unit) -> None:
        """Before a unit commits: what its facts tell of belongs to the project on whose behalf it acts."""
        acting = ACTING.get()
        if acting is None:
            return
        ids: list[str] = []
        names: list[str] = []
        for event in unit.said:
            body = event.model_dump(mode="json")
            if event.subject != "ltp.audit.v1.recorded":
                ids += tenancy.told_of(body, None)
            kind = _NAMING.get(event.subject)
            name = body.get("name") or (body.get("spec") or {}).get("name")
            if kind is not None and name:
                names.append(f"{kind}:{name}")
        project = acting.project or DEFAULT_PROJECT
        taken = await store.claim(unit, names, project)
        if taken:
            kind, _, name = next(iter(taken)).partition(":")
            raise LtpError(ErrorCode.CONFLICT, f"The {kind} name {name!r} is taken.", "Choose another name.")
        await store.claim(unit, ids, project)

    async def _foreign_in(self, value: Any, project: str) -> frozenset[str]:
        found = await store.owners_of(self.runtime.database.engine, tenancy.shown(value))
        return frozenset(noun for noun, owner in found.items() if owner != project)

    def _refuse_paths(self, said: Any) -> None:
        settings = self.runtime.settings
        assert isinstance(settings, GatewaySettings)
        root = settings.root()
        # Of what runs wrote, the ids in the path say whose it is.
        roots = [root / part for part in ("models", "datasets", "runs", "operations")]
        roots += [Path(extra).expanduser().resolve() for extra in settings.gateway_path_roots]
        for path in tenancy.paths_in(said):
            if tenancy.outside(path, roots, root / "models"):
                message = f"{path[:200]} lies outside of what a project may read."
                hint = "Put it below DATA/models or DATA/datasets, or have LTP_GATEWAY_PATH_ROOTS name its folder."
                raise LtpError(ErrorCode.FORBIDDEN, message, hint)

    async def _send_sifted(
        self, scope: Any, receive: Any, send: Send, start: MutableMapping[str, Any], body: bytes, principal: Principal
    ) -> None:
        project = principal.project or DEFAULT_PROJECT
        if start["status"] < 400 and body:
            value = json.loads(body)
            value, mine = tenancy.without(value, await self._foreign_in(value, project), project)
            if not mine:
                await problem_response(_nothing(scope["path"]), path=scope["path"])(scope, receive, send)
                return
            body = json.dumps(value, separators=(",", ":")).encode()
        headers = [(name, value) for name, value in start["headers"] if name.lower() != b"content-length"]
        start["headers"] = [*headers, (b"content-length", str(len(body)).encode())]
        await send(start)
        await send({"type": "http.response.body", "body": body})


def _is_json(message: MutableMapping[str, Any]) -> bool:
    return any(n.lower() == b"content-type" and v.startswith(b"application/json") for n, v in message["headers"])


def _query(request: Request) -> dict[str, list[str]]:
    return {key: request.query_params.getlist(key) for key in request.query_params}


async def _body(request: Request) -> Any:
    """The JSON of a request; files are no JSON, and what cannot be parsed is refused by its route."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind.startswith("multipart/"):
        return {key: value for key, value in (await request.form()).items() if isinstance(value, str)}
    if kind != "application/json" and not kind.endswith("+json"):
        return None
    try:
        return json.loads(await request.body())
    except (ValueError, RecursionError):
        return None


def _nothing(what: str) -> LtpError:
    return LtpError(ErrorCode.NOT_FOUND, f"There is no {what[:200]}.", "Lists show what there is in your project.")
