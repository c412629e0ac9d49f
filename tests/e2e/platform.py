"""A whole platform as its user has it: the `ltp` command on a data directory of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

LTP = str(Path(sys.executable).with_name("ltp"))

RECIPE = """\
name: tiny
algorithm: sft
model: {{path: {model}}}
dataset: {{name: sums}}
training: {{steps: {steps}, batch_size: 8, learning_rate: 1.0e-3, max_length: 64, save_every: {save_every}}}
resources: {{device_kind: cpu}}
evaluation: {{scorer: numeric, max_rows: 20, max_new_tokens: 8}}
"""


@dataclass
class Platform:
    """Runs commands against one data directory."""

    data: Path
    # Where a receiver of OTLP writes what the platform sends it, and the variables that tell the platform of it.
    spans_file: Path | None = None
    told: dict[str, str] = field(default_factory=dict[str, str])

    def ltp(self, *words: str, check: bool = True, seconds: float = 120) -> subprocess.CompletedProcess[str]:
        """Run a command; its output as text."""
        environment = {**os.environ, **self.told, "LTP_DATA_DIR": str(self.data)}
        done = subprocess.run([LTP, *words], capture_output=True, text=True, env=environment, timeout=seconds)
        if check:
            assert done.returncode == 0, f"ltp {' '.join(words)}: {done.stdout}{done.stderr}"
        return done

    def json(self, *words: str) -> Any:
        """Run a command with --json; the decoded output."""
        return json.loads(self.ltp(*words, "--json").stdout)

    def json_lines(self, *words: str) -> list[Any]:
        """Run a command that prints JSON lines."""
        return [json.loads(line) for line in self.ltp(*words, "--json").stdout.splitlines()]

    def spans(self) -> list[dict[str, Any]]:
        """Every span that was received so far."""
        assert self.spans_file is not None
        lines = self.spans_file.read_text(errors="replace").splitlines()
        return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]

    def pid_of(self, name: str) -> int:
        """The process id of a supervised process."""
        processes = self.json("status")["processes"]
        return int(next(p["pid"] for p in processes if p["name"] == name))

    def launchers(self) -> list[dict[str, Any]]:
        """What every launcher that ever ran here says of itself."""
        return [json.loads(p.read_text()) for p in self.data.glob("runs/*/*/status.json")]

    def logs(self) -> str:
        """Everything the services logged as a warning or worse, for the message of a failed assertion."""
        lines: list[str] = []
        for log in sorted((self.data / "logs").glob("*.log")):
            told = [f"{log.stem}: {line}" for line in log.read_text(errors="replace").splitlines()]
            lines += [line for line in told if '"warning"' in line or '"error"' in line or "Traceback" in line]
        return "\n".join(lines[-40:])


def write_rows(path: Path, count: int = 90) -> None:
    """Additions with their answers, no question twice."""
    with path.open("w") as file:
        for index in range(count):
            a, b = index % 10, index // 10
            file.write(json.dumps({"prompt": f"{a} + {b}", "response": f"{a + b}"}) + "\n")


def eventually(condition: Callable[[], Any], seconds: float = 120.0) -> Any:
    """The first true value of a condition, within a deadline."""
    deadline = time.monotonic() + seconds
    while True:
        looked_at = time.monotonic()
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"not within {seconds} s"
        # A look by the command line costs half a second of a core that the training under test needs.
        time.sleep(max(0.2, 1.5 * (time.monotonic() - looked_at)))


def write_huge_model(folder: Path) -> Path:
    """A model that no machine of ours holds: 72 billion parameters whose file is a hole on the disk."""
    folder.mkdir()
    config = {"model_type": "qwen2", "hidden_size": 8192, "intermediate_size": 29568, "num_hidden_layers": 80}
    config |= {"num_attention_heads": 64, "num_key_value_heads": 8, "vocab_size": 152064}
    config |= {"max_position_embeddings": 32768, "tie_word_embeddings": False, "architectures": ["Qwen2ForCausalLM"]}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text("{}")
    parameters = 72_706_203_648
    header = json.dumps({"w": {"dtype": "BF16", "shape": [parameters], "data_offsets": [0, 2 * parameters]}}).encode()
    weights = folder / "model.safetensors"
    weights.write_bytes(len(header).to_bytes(8, "little") + header)
    os.truncate(weights, 8 + len(header) + 2 * parameters)
    return folder
