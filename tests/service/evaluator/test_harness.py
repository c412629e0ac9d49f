"""The real lm-evaluation-harness asks our server, and `ltp eval import` reads what it wrote: `make harness`."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from ltp.cli.evaluation_files import read_harness
from services.evaluator.inference import InferenceServer
from services.evaluator.rescoring import read_harness as imported
from tests.tiny_model import write_tiny_model

LM_EVAL = os.environ.get("LTP_LM_EVAL")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.training,
    pytest.mark.skipif(LM_EVAL is None, reason="LTP_LM_EVAL names no lm_eval"),
]

GENERATED = """\
task: sums_generated
dataset_path: json
dataset_kwargs: {{data_files: {{test: {rows}}}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{question}}}} ="
doc_to_target: "{{{{answer}}}}"
generation_kwargs: {{until: ["\\n"], max_gen_toks: 4, do_sample: false}}
metric_list: [{{metric: exact_match, aggregation: mean, higher_is_better: true}}]
"""
CHOSEN = """\
task: sums_chosen
dataset_path: json
dataset_kwargs: {{data_files: {{test: {rows}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}} ="
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{label}}}}"
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
"""


async def test_the_harness_runs_through_our_server_and_its_results_are_read(tmp_path: Path) -> None:
    model, rows, tasks, out = (tmp_path / name for name in ("model", "rows.jsonl", "tasks", "out"))
    write_tiny_model(model)
    lines = [
        {"question": f"{a} + {b}", "answer": str(a + b), "choices": [f" {a + b}", f" {a + b + 1}"], "label": 0}
        for a in range(3)
        for b in range(4)
    ]
    rows.write_text("".join(json.dumps(line) + "\n" for line in lines))
    tasks.mkdir()
    (tasks / "generated.yaml").write_text(GENERATED.format(rows=rows))
    (tasks / "chosen.yaml").write_text(CHOSEN.format(rows=rows))
    async with InferenceServer(model, tmp_path / "server.log", threads=1) as server:
        place = f"model={server.model_name},base_url={server.url}/v1/completions,tokenizer={model}"
        done = subprocess.run(
            [
                str(LM_EVAL),
                *("--model", "local-completions", "--model_args", f"{place},num_concurrent=4,max_length=512"),
                *("--tasks", "sums_generated,sums_chosen", "--include_path", str(tasks)),
                *("--log_samples", "--output_path", str(out)),
            ],
            capture_output=True,
            text=True,
            env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf"), "OPENAI_API_KEY": "none"},
            timeout=500,
            check=False,
        )
    assert done.returncode == 0, done.stdout + done.stderr
    uploads = {upload["task"]: upload for upload in read_harness(out, None, None)}
    assert {task: upload["metric"] for task, upload in uploads.items()} == {
        "sums_generated": "exact_match",
        "sums_chosen": "acc",
    }
    said = json.loads(next(out.rglob("results_*.json")).read_text())["results"]
    for task, upload in uploads.items():
        (tmp_path / "upload.json").write_text(json.dumps(upload))
        samples = imported(tmp_path / "upload.json")["samples"]
        assert len(samples) == len(lines)
        right = sum(sample.verdict.outcome == "right" for sample in samples) / len(samples)
        assert right == pytest.approx(said[task][f"{upload['metric']},none"])
