"""What a search for duplicates measured, as a file: the pairs, from which removals at stricter thresholds follow."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ltp.contracts.dedup import DedupMethod, Thresholds
from ltp.core.errors import ErrorCode, LtpError
from services.dataset.dedup.methods import Measured
from services.dataset.dedup.pairs import Pairs, Removals


@dataclass(frozen=True)
class Record:
    """The file of one search."""

    path: Path

    def write(self, measured: Measured) -> None:
        """Write it whole, or not at all."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        draft = self.path.with_name(f".{os.getpid()}.{self.path.name}")
        with draft.open("wb") as file:
            np.savez(
                file,
                floor=np.array([measured.floor.cosine, measured.floor.jaccard]),
                first=measured.first,
                where=measured.where,
                later=measured.pairs.later,
                earlier=measured.pairs.earlier,
                score=measured.pairs.score,
                cosine=measured.cosine,
                jaccard=measured.jaccard,
                fixed=np.array(measured.fixed is not None),
            )
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, self.path)

    def read(self, method: DedupMethod) -> Measured:
        """Read it. Raises LtpError DEDUP_NOT_READY when it is gone or broken: it can be made again."""
        try:
            with np.load(self.path, allow_pickle=False) as held:
                cosine, jaccard = held["floor"].tolist()
                pairs = Pairs(held["later"], held["earlier"], held["score"])
                fixed = Removals(pairs.later, pairs.earlier, pairs.score) if bool(held["fixed"]) else None
                return Measured(
                    method,
                    Thresholds(cosine=cosine, jaccard=jaccard),
                    held["first"],
                    held["where"],
                    pairs,
                    held["cosine"],
                    held["jaccard"],
                    fixed,
                )
        except (OSError, ValueError, KeyError) as error:
            message = f"What this search for duplicates measured is no longer there ({type(error).__name__})."
            raise LtpError(ErrorCode.DEDUP_NOT_READY, message, "Run `ltp dataset dedup preview` again.") from error
