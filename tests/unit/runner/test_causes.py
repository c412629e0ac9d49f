"""The cause of a failure, from recorded logs and exits."""

from __future__ import annotations

import pytest

from ltp.core.errors import ErrorCode
from services.runner.causes import Exit, diagnose

FAILED = Exit(1, None)

CUDA_OOM = """\
Traceback (most recent call last):
  File "/x/verl/workers/fsdp_workers.py", line 520, in update_actor
    metrics = self.actor.update_policy(data=data)
  File "/x/torch/autograd/graph.py", line 841, in _engine_run_backward
torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 139.80 GiB
"""
PEERS_OF_OOM = CUDA_OOM + "[rank1]:[E] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=12)\n"
RAY_OOM = """\
ray.exceptions.OutOfMemoryError: Task was killed due to the node running low on memory.
Workers (tasks / actors) killed due to memory pressure (OOM), 0 Workers crashed due to other reasons
"""
REWARD = """\
  File "/u/reward.py", line 3, in compute_score
    return 1 / 0
ZeroDivisionError: division by zero
"""


# As users reported them: verl #302, verl #4921, NCCL #1610, LlamaFactory #1223.
WAKE_UP = """\
(main_task pid=1)   File "/verl/workers/sharding_manager/fsdp_vllm.py", line 79, in __enter__
(main_task pid=1)     self.inference_engine.wake_up()
(main_task pid=1)   File "/vllm/device_allocator/cumem.py", line 75, in create_and_map
(main_task pid=1) RuntimeError: CUDA Error: out of memory at /workspace/csrc/cumem_allocator.cpp:62
"""
ACTOR_DIED = """\
ray.exceptions.ActorDiedError: The actor died unexpectedly before finishing this task.
The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR Worker exit detail: Worker \
unexpectedly exits with a connection error code 2. End of file. Some common causes include: (1) the process was killed by \
the OOM killer due to high memory usage, (2) ray stop --force was called, or (3) the worker crashed unexpectedly.
"""
NCCL_TIMEOUT = (
    "[rank15]:[E218 04:54:22 ProcessGroupNCCL.cpp:616] [Rank 1] Watchdog caught collective operation timeout: "
    "WorkNCCL(SeqNum=57, OpType=ALLREDUCE, NumelIn=32, NumelOut=32, Timeout(ms)=600000) ran for 600045 milliseconds\n"
)
STREAM_WRITER = (
    "RuntimeError: [enforce fail at inline_container.cc:445] . PytorchStreamWriter failed writing file data/176: "
    "file write failed\n"
)


@pytest.mark.parametrize(
    ("log", "code", "said"),
    [
        (CUDA_OOM, ErrorCode.TRAINING_OUT_OF_MEMORY, "(update)"),
        (PEERS_OF_OOM, ErrorCode.TRAINING_OUT_OF_MEMORY, "Tried to allocate 2.00 GiB"),
        ("ValueError: No available memory for the cache blocks.", ErrorCode.TRAINING_OUT_OF_MEMORY, "cache blocks"),
        ("RuntimeError: DefaultCPUAllocator: can't allocate memory", ErrorCode.TRAINING_OUT_OF_MEMORY, "allocate"),
        (RAY_OOM, ErrorCode.HOST_OUT_OF_MEMORY, "memory pressure"),
        ("OSError: [Errno 28] No space left on device", ErrorCode.DISK_FULL, "No space left"),
        (REWARD, ErrorCode.REWARD_FAILED, "ZeroDivisionError"),
        ("ModuleNotFoundError: No module named 'flash_attn'", ErrorCode.DEPENDENCY_MISSING, "flash_attn"),
        ("pyarrow.lib.ArrowInvalid: JSON parse error", ErrorCode.TRAINING_DATA_INVALID, "JSON parse error"),
        ("torch.AcceleratorError: CUDA error: unspecified launch failure", ErrorCode.DEVICE_FAILED, "launch failure"),
        ("[rank3]: torch.distributed.DistBackendError: NCCL error in: x", ErrorCode.COLLECTIVE_FAILED, "NCCL"),
        ("RuntimeError: Gloo connectFullMesh failed: Connection reset by peer", ErrorCode.COLLECTIVE_FAILED, "Gloo"),
        (WAKE_UP, ErrorCode.TRAINING_OUT_OF_MEMORY, "(rollout)"),
        (ACTOR_DIED, ErrorCode.TRAINING_KILLED, "worker process has died"),
        (NCCL_TIMEOUT, ErrorCode.COLLECTIVE_FAILED, "OpType=ALLREDUCE"),
        (STREAM_WRITER, ErrorCode.DISK_FULL, "file write failed"),
        (
            "slurmstepd: error: *** JOB 7 ON n1 CANCELLED AT 2026-11-23T12:00:00 DUE TO PREEMPTION ***",
            ErrorCode.PREEMPTED,
            "DUE TO",
        ),
        ("RuntimeError: No CUDA GPUs are available", ErrorCode.DEVICE_FAILED, "No CUDA GPUs"),
        ("RuntimeError: The NVIDIA driver on your system is too old", ErrorCode.DEPENDENCY_MISSING, "too old"),
        ("Traceback\nValueError: bad row", ErrorCode.TRAINING_FAILED, "bad row"),
        ("step 3", ErrorCode.TRAINING_FAILED, "printed no error"),
    ],
)
def test_the_cause_is_read_from_the_log_with_the_lines_that_prove_it(log: str, code: ErrorCode, said: str) -> None:
    problem = diagnose(log, FAILED)
    assert problem.code == code
    assert said in problem.message + " ".join(problem.evidence)
    assert problem.evidence
    assert problem.hint


def test_a_silent_kill_is_the_kernels_where_memory_was_scarce() -> None:
    assert diagnose("step 3", Exit(None, 9, 0.01)).code == ErrorCode.HOST_OUT_OF_MEMORY
    assert diagnose("step 3", Exit(None, 9, 0.6)).code == ErrorCode.TRAINING_KILLED
    assert diagnose("step 3", Exit(None, 9)).code == ErrorCode.TRAINING_KILLED


def test_a_log_of_a_megabyte_on_one_line_is_read_in_good_time_and_quoted_in_part() -> None:
    problem = diagnose("x" * 1_000_000 + " CUDA out of memory", FAILED)
    assert problem.code == ErrorCode.TRAINING_OUT_OF_MEMORY
    assert len(problem.message) <= 2000
    assert all(len(line) <= 400 for line in problem.evidence)
