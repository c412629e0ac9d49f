"""The images: a base bootstrapped from Debian, stand-ins for those of others, and our own by the Dockerfile as it is.

The base has Debian's Python 3.11 where the real one has that of docker.io/python; the console is built by this machine's
Node.js; NATS and Postgres (with pgvector) are the very servers, out of wheels, behind what their images take as settings.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import yaml

from tests.podman.engine import CheckFailedError, Engine

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).parent
DEBIAN = ("bookworm", "http://deb.debian.org/debian")
# ca-certificates for pip, wget for the health check of NATS.
BASE_PACKAGES = "ca-certificates,python3,python3-venv,wget"
# Services that share an image here, which has the extras of them all; it is started by SERVICE.
SHARED = (("gateway",), ("scheduler", "planner"), ("runner", "surgery", "evaluator"), ("dataset",))


def names() -> dict[str, str]:
    """The images that docker-compose.yml and the Dockerfile name, by their part before the colon."""
    text = (ROOT / "docker-compose.yml").read_text() + (ROOT / "deploy" / "Dockerfile").read_text()
    found = re.findall(r"(?:image: |BASE=|FROM )((?:[\w.-]+/)*[\w.-]+):([\w.-]+)", text)
    return {name: f"docker.io/{'' if '/' in name else 'library/'}{name}:{tag}" for name, tag in found}


def make_images(engine: Engine) -> None:
    """Make those that are not there yet."""
    known = names()
    with tempfile.TemporaryDirectory(dir=engine.folder) as folder:
        work = Path(folder)
        if _missing(engine, known["python"]):
            _say("the base, by debootstrap")
            _bootstrap(engine, work / "root", known["python"])
        if _missing(engine, known["node"]):
            _say("node, of this machine")
            _node(engine, work / "node", known)
        for name, image in (("nats", known["nats"]), ("postgres", known["pgvector/pgvector"])):
            if _missing(engine, image):
                _say(f"a stand-in for {image}")
                _build(engine, work, HERE / name, "--build-arg", f"BASE={known['python']}", "-t", image, HERE / name)
        built = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
        for services in SHARED:
            tags = [f"localhost/ltp/{name}:dev" for name in services]
            if _missing(engine, tags[0]):
                args = _arguments([built[name]["build"]["args"] for name in services])
                _say(f"deploy/Dockerfile with {' '.join(args)}")
                wanted = [word for tag in tags for word in ("-t", tag)]
                options = [word for argument in args for word in ("--build-arg", argument)]
                _build(engine, work, ROOT / "deploy", *options, *wanted, ROOT)


def _arguments(built: list[dict[str, str]]) -> tuple[str, str]:
    """Those of docker-compose.yml; for several services the first one's, with the extras of them all."""
    extras = [extra for args in built for extra in args.get("EXTRAS", "").split(",") if extra]
    others = [args["SERVICE"] for args in built[1:]]
    return f"SERVICE={built[0]['SERVICE']}", "EXTRAS=" + "".join(f",{name}" for name in dict.fromkeys(others + extras))


def _bootstrap(engine: Engine, root: Path, image: str) -> None:
    engine.run("debootstrap", "--variant=minbase", f"--include={BASE_PACKAGES}", DEBIAN[0], root, DEBIAN[1])
    for package in (root / "var/cache/apt/archives").glob("*.deb"):
        package.unlink()
    archive = root.with_suffix(".tar")
    engine.run("tar", "-C", root, "-cf", archive, ".")
    shutil.rmtree(root)
    engine.podman("import", archive, image)
    archive.unlink()


def _node(engine: Engine, folder: Path, known: dict[str, str]) -> None:
    program = shutil.which("node")
    if program is None:
        raise CheckFailedError("Node.js 20 or newer is needed for the console.")
    prefix = Path(program).resolve().parents[1]
    folder.mkdir()
    engine.run(
        "tar", "-C", prefix, "-cf", folder / "node.tar", "bin/node", "bin/npm", "bin/npx", "lib/node_modules/npm"
    )
    (folder / "Dockerfile").write_text(f"FROM {known['python']}\nADD node.tar /usr/\n")
    _build(engine, folder, folder, "-t", known["node"], folder)


def _build(engine: Engine, work: Path, dockerfile: Path, *words: str | Path) -> None:
    """As it would be built elsewhere, but with this machine's way to the packages, which stays out of the image."""
    options = ("--isolation", "chroot", "--pull-never", "--format", "docker", "--layers=false")
    engine.run("buildah", "bud", *options, *_mounts(work), "-f", dockerfile / "Dockerfile", *words)


def _mounts(work: Path) -> Iterator[str]:
    """The settings of pip and npm, the folders they name, and the certificates."""
    pip = work / "pip.conf"
    said = subprocess.run(["pip", "config", "list"], capture_output=True, text=True, check=True).stdout
    settings = dict(re.findall(r"^(?:global|:env:)\.([\w-]+)='(.*)'$", said, re.MULTILINE))
    pip.write_text("[global]\n" + "".join(f"{key} = {value}\n" for key, value in sorted(settings.items())))
    npm = work / "npmrc"
    npm.write_text("cafile=/etc/ssl/certs/ca-certificates.crt\n")
    places = {
        f"/{Path(path).parts[1]}/{Path(path).parts[2]}"
        for path in re.findall(r"(?:file://)?(/opt/\S+)", pip.read_text())
    }
    certificates = [
        Path("/etc/ssl/certs"),
        Path("/usr/share/ca-certificates"),
        Path("/usr/local/share/ca-certificates"),
    ]
    for place in [*map(Path, sorted(places)), *certificates]:
        if place.is_dir():
            yield f"--volume={place}:{place}:ro"
    yield f"--volume={pip}:/etc/pip.conf:ro"
    yield f"--volume={npm}:/root/.npmrc:ro"


def _missing(engine: Engine, image: str) -> bool:
    return engine.run("podman", "image", "exists", image, check=False).returncode != 0


def _say(what: str) -> None:
    print(f"building {what}", flush=True)
