"""From what was asked for to the files of a version: what the process of such work does."""

from __future__ import annotations

from pathlib import Path

from ltp.contracts.dataset import DatasetDerivationRequested, DatasetRequested, DatasetUploaded, ReadOptions
from services.dataset.derive import Source, mix_files, split_files
from services.dataset.files import FrozenVersion, staging_directory
from services.dataset.hub import HubSettings
from services.dataset.ingest import freeze
from services.dataset.obtain import obtain


def read_source(
    asked: DatasetUploaded | DatasetRequested,
    options: ReadOptions,
    versions: Path,
    roots: list[Path],
    hub: HubSettings,
) -> FrozenVersion:
    """Read a source into a version. Whatever is unpacked or fetched lies beside the versions and goes with the work."""
    # A folder per name, since the rows carry the name while the version is a hash of their content alone.
    folder, owner = versions / asked.name, str(asked.dataset_id)
    uploaded = isinstance(asked, DatasetUploaded)
    with staging_directory(folder, f"{owner}.source") as work:
        got = obtain(
            asked.path if uploaded else asked.source,
            asked.filename if uploaded else None,
            member=options.member,
            mapping=options.mapping,
            roots=roots,
            hub=hub,
            work=work,
        )
        facts = {"source": asked.filename if uploaded else asked.source, "mapping": options.mapping}
        return freeze(
            got.files, name=asked.name, holdout=asked.holdout, versions_dir=folder, owner=owner,
            columns=got.columns, facts=facts,
        )  # fmt: skip


def combine(event: DatasetDerivationRequested, sources: list[Source], folder: Path) -> FrozenVersion:
    """The files of a version split anew or mixed of others."""
    formats = sorted({source.manifest()["format"] for source in sources})
    evidence = sources[0].manifest()["evidence"] if len(sources) == 1 else f"mixed of {len(sources)} versions"
    facts = {"format": "+".join(formats), "evidence": evidence, "parents": [s.version for s in sources]}
    owner = str(event.dataset_id)
    if event.kind == "split":
        return split_files(sources[0], event.shares, name=event.name, versions_dir=folder, owner=owner, facts=facts)
    weights = [part.weight for part in event.parts]
    return mix_files(sources, weights, event.rows, name=event.name, versions_dir=folder, owner=owner, facts=facts)
