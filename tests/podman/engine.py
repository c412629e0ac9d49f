"""podman, buildah and podman-compose, with a storage of their own: what else runs in containers here is neither seen nor touched.

No systemd, cgroups of both versions at once, and limits that may not be raised are what a container finds when this is run inside
of another one: runc instead of crun, cgroupfs, and low limits on files and processes get along with that.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

PROGRAMS = ("podman", "buildah", "runc", "debootstrap", "dnsmasq", "catatonit")
PACKAGES = (
    "podman buildah runc catatonit debootstrap containernetworking-plugins "
    "golang-github-containernetworking-plugin-dnsname dnsmasq-base"
)


class CheckFailedError(Exception):
    """A step went wrong; the message is for whoever ran the check."""


@dataclass(frozen=True)
class Engine:
    """The engine over one folder, which holds all it stores."""

    folder: Path
    compose_program: Path

    def prepare(self) -> None:
        """Refuse what cannot work, and write the engine's configuration."""
        missing = [name for name in PROGRAMS if shutil.which(name) is None]
        if missing or os.geteuid() != 0:
            raise CheckFailedError(f"root is needed, and {missing or 'nothing else'}: apt-get install {PACKAGES}")
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "containers.conf").write_text(
            '[containers]\ndefault_ulimits=["nofile=4096:4096","nproc=4096:4096"]\n'
            '[engine]\nruntime="runc"\ncgroup_manager="cgroupfs"\n'
        )
        (self.folder / "storage.conf").write_text(
            f'[storage]\ndriver="overlay"\ngraphroot="{self.folder}/graph"\nrunroot="{self.folder}/run"\n'
        )

    def environment(self) -> dict[str, str]:
        """Ours without what names another platform, and with this engine's configuration."""
        ours = {k: v for k, v in os.environ.items() if not k.startswith("LTP_")}
        conf, storage = self.folder / "containers.conf", self.folder / "storage.conf"
        return {**ours, "CONTAINERS_CONF": str(conf), "CONTAINERS_STORAGE_CONF": str(storage)}

    def run(
        self, *words: str | Path, check: bool = True, cwd: Path | None = None, stdin: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a program to its end; its output as text, and a failure with the end of it."""
        with (stdin or Path(os.devnull)).open("rb") as source:
            done = subprocess.run(
                [str(word) for word in words],
                stdin=source,
                capture_output=True,
                text=True,
                errors="replace",
                cwd=cwd,
                env=self.environment(),
            )
        if check and done.returncode != 0:
            raise CheckFailedError(f"{' '.join(map(str, words))}\n{(done.stdout + done.stderr)[-3000:]}")
        return done

    def podman(self, *words: str | Path, check: bool = True, stdin: Path | None = None) -> str:
        """What podman printed."""
        return self.run("podman", *words, check=check, stdin=stdin).stdout.strip()

    def left(self) -> list[str]:
        """Containers, pods, networks of ours, volumes and processes that are there."""
        found = [f"container {name}" for name in self.podman("ps", "-a", "--format", "{{.Names}}").split()]
        found += [f"pod {name}" for name in self.podman("pod", "ps", "--format", "{{.Name}}").split()]
        found += [f"volume {name}" for name in self.podman("volume", "ls", "--format", "{{.Name}}").split()]
        networks = self.podman("network", "ls", "--format", "{{.Name}}").split()
        found += [f"network {name}" for name in networks if name != "podman"]
        return found + [f"process {pid}: {command[:100]}" for pid, command in self._processes()]

    def _processes(self) -> list[tuple[int, str]]:
        """Monitors of containers that were told of our folder, and servers of names, which tell no folder."""
        found: list[tuple[int, str]] = []
        for place in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                words = place.read_bytes().decode(errors="replace").split("\0")
            except OSError:
                continue
            ours = any(str(self.folder) in word or "/cni/dnsname/" in word for word in words)
            if ours and Path(words[0]).name in {"conmon", "runc", "dnsmasq"}:
                found.append((int(place.parent.name), " ".join(words)))
        return found

    def remove(self) -> None:
        """Delete every image and the storage itself."""
        self.podman("system", "reset", "--force", check=False)
        shutil.rmtree(self.folder, ignore_errors=True)
