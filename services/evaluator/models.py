"""From the model that a request names to an open endpoint: an address elsewhere, or a server of our own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy.engine import RowMapping

from ltp.contracts.evaluation_spec import ApiModel, LocalModel
from ltp.contracts.values import Placement
from ltp.core.errors import ErrorCode, LtpError
from ltp.security.secrets import Secrets
from services.evaluator.adapters import base_of, check_adapter, is_adapter
from services.evaluator.endpoint import Endpoint
from services.evaluator.fingerprint import check_model, fingerprint_of
from services.evaluator.lanes import Address
from services.evaluator.scorers.judging import Opener
from services.evaluator.servers import ModelCache, Wanted
from services.evaluator.settings import EvaluatorSettings


@dataclass(frozen=True)
class Served:
    """A model directory that can be served, with the adapter on top of it."""

    base: Path
    adapter: Path | None = None
    rank: int = 0

    @classmethod
    def of(cls, model: LocalModel) -> Served:
        """Reads headers only. Raises LtpError MODEL_NOT_FOUND or MODEL_UNREADABLE."""
        base = Path(model.path).resolve()
        adapter = None if model.adapter is None else Path(model.adapter).resolve()
        if adapter is None and is_adapter(base):
            base, adapter = base_of(base), base
        check_model(base)
        return cls(base, adapter, 0 if adapter is None else check_adapter(adapter))


class Models:
    """Opens models; the servers of our own are the cache's."""

    def __init__(self, settings: EvaluatorSettings, cache: ModelCache, secrets: Secrets) -> None:
        self._settings, self._cache, self._secrets = settings, cache, secrets

    @asynccontextmanager
    async def under_test(self, row: RowMapping, placement: Placement | None) -> AsyncIterator[tuple[Endpoint, str]]:
        """An open endpoint of an evaluation's model, with its fingerprint."""
        if row["model"]["kind"] == "api":
            model = ApiModel.model_validate(row["model"])
            async with Endpoint(await self._address(model)) as endpoint:
                yield endpoint, f"api:{model.url}:{model.name}"
            return
        named = LocalModel(path=row["model_path"], adapter=row["model"].get("adapter"))
        async with self._own(named, placement) as found:
            yield found

    def opener(self, placement: Placement | None) -> Opener:
        """What opens a judge or an embedder, on the devices that the evaluation holds anyway."""

        @asynccontextmanager
        async def open_model(model: ApiModel | LocalModel) -> AsyncIterator[Endpoint]:
            if isinstance(model, ApiModel):
                async with Endpoint(await self._address(model)) as endpoint:
                    yield endpoint
                return
            async with self._own(model, placement) as (endpoint, _):
                yield endpoint

        return open_model

    @asynccontextmanager
    async def _own(self, model: LocalModel, placement: Placement | None) -> AsyncIterator[tuple[Endpoint, str]]:
        if placement is None:
            raise LtpError(ErrorCode.INTERNAL, "Evaluation work came without a placement.", "See the scheduler's log.")
        served = await asyncio.to_thread(Served.of, model)
        fingerprint = await asyncio.to_thread(fingerprint_of, served.base)
        wanted = Wanted(
            fingerprint, served.base, placement.device_kind, frozenset(placement.device_indexes), served.rank
        )
        async with self._cache.serving(wanted) as server:
            name = server.model_name
            if served.adapter is not None:
                mark = await asyncio.to_thread(fingerprint_of, served.adapter)
                name = await server.adapt(served.adapter, mark)
                fingerprint = f"{fingerprint}+{mark}"
            address = Address(
                url=f"{server.url}/v1",
                model=name,
                max_concurrency=self._settings.evaluator_concurrency,
                request_seconds=600.0,
                own=True,
            )
            async with Endpoint(address) as endpoint:
                yield endpoint, fingerprint

    async def _address(self, model: ApiModel) -> Address:
        """Where an API model is. Raises LtpError SECRET_NOT_FOUND."""
        key = None if model.secret is None else await key_of(self._secrets, model.secret)
        return Address(
            url=model.url,
            model=model.name,
            key=key,
            requests_per_second=None if model.requests_per_minute is None else model.requests_per_minute / 60,
            max_concurrency=model.max_concurrency,
            request_seconds=model.request_seconds,
        )


async def key_of(secrets: Secrets, name: str) -> str:
    """An endpoint's key, read at the moment of use and kept nowhere. Raises SECRET_NOT_FOUND."""
    key = (await secrets.read(name)).strip()
    if not (key.isascii() and key.isprintable()):
        message = f"The secret {name!r} is no key: it has characters that no header can carry."
        raise LtpError(ErrorCode.SECRET_NOT_FOUND, message, f"Store it again with `ltp secret set {name}`.")
    return key
