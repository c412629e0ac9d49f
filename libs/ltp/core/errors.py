"""Every error a user can meet, each with a stable code, a sentence that says what is wrong, and one that says what to do.

One enum, so that clients branch on codes and documents list them; the HTTP status belongs to the gateway alone.
"""

from __future__ import annotations

from enum import StrEnum


class ErrorCode(StrEnum):
    """Stable names of what can go wrong; a value is never reused for another meaning."""

    # The user's input
    INVALID_REQUEST = "invalid_request"
    INVALID_YAML = "invalid_yaml"
    INVALID_RECIPE = "invalid_recipe"
    NOT_FOUND = "not_found"
    CONFLICT = "conflict"
    UNAUTHENTICATED = "unauthenticated"
    FORBIDDEN = "forbidden"
    RATE_LIMITED = "rate_limited"
    PRECONDITION_FAILED = "precondition_failed"
    KEYRING_UNUSABLE = "keyring_unusable"
    TOO_LARGE = "too_large"
    # Models and plans
    MODEL_NOT_FOUND = "model_not_found"
    MODEL_UNREADABLE = "model_unreadable"
    PLAN_DOES_NOT_FIT = "plan_does_not_fit"
    NO_HOST = "no_host"
    ALGORITHM_UNSUPPORTED = "algorithm_unsupported"
    # Hosts
    HOST_UNREACHABLE = "host_unreachable"
    HOST_KEY_CHANGED = "host_key_changed"
    HOST_AUTH_FAILED = "host_auth_failed"
    HOST_UNFIT = "host_unfit"
    # Datasets
    DATASET_EMPTY = "dataset_empty"
    DATASET_FORMAT_UNKNOWN = "dataset_format_unknown"
    DATASET_UNREADABLE = "dataset_unreadable"
    DATASET_ROW_INVALID = "dataset_row_invalid"
    DATASET_ROW_WITHOUT_ANSWER = "dataset_row_without_answer"
    DATASET_TOO_SMALL = "dataset_too_small"
    DATASET_NOT_READY = "dataset_not_ready"
    # Vectors, search, dedup
    VECTORS_INVALID = "vectors_invalid"
    EMBEDDING_FAILED = "embedding_failed"
    EMBEDDING_NOT_READY = "embedding_not_ready"
    FIELD_UNKNOWN = "field_unknown"
    DEDUP_NOT_READY = "dedup_not_ready"
    DATASET_MASK_EMPTY = "dataset_mask_empty"
    SOURCE_UNREACHABLE = "source_unreachable"
    CHECKSUM_MISMATCH = "checksum_mismatch"
    QUOTA_EXCEEDED = "quota_exceeded"
    # Training
    LAUNCH_FAILED = "launch_failed"
    TRAINING_FAILED = "training_failed"
    TRAINING_OUT_OF_MEMORY = "training_out_of_memory"
    HOST_OUT_OF_MEMORY = "host_out_of_memory"
    COLLECTIVE_FAILED = "collective_failed"
    DEVICE_FAILED = "device_failed"
    DEVICE_OUT_OF_MEMORY = "device_out_of_memory"
    REWARD_FAILED = "reward_failed"
    TRAINING_DATA_INVALID = "training_data_invalid"
    TRAINING_STALLED = "training_stalled"
    TRAINING_KILLED = "training_killed"
    PREEMPTED = "preempted"
    ATTEMPT_LOST = "attempt_lost"
    HOST_LOST = "host_lost"
    TIME_LIMIT = "time_limit"
    # Checkpoints and evaluation
    EXPORT_FAILED = "export_failed"
    MERGE_FAILED = "merge_failed"
    OPERATION_REFUSED = "operation_refused"
    INFERENCE_SERVER_FAILED = "inference_server_failed"
    EVALUATION_EMPTY = "evaluation_empty"
    EVALUATION_FAILED = "evaluation_failed"
    ENDPOINT_UNREACHABLE = "endpoint_unreachable"
    ENDPOINT_REFUSED = "endpoint_refused"
    SECRET_NOT_FOUND = "secret_not_found"  # noqa: S105 - the name of a code
    SCORER_FAILED = "scorer_failed"
    COMPARISON_UNSOUND = "comparison_unsound"
    # Schedules and pipelines
    INVALID_SCHEDULE = "invalid_schedule"
    INVALID_PIPELINE = "invalid_pipeline"
    INPUT_CHANGED = "input_changed"
    GATE_CLOSED = "gate_closed"
    STAGE_FAILED = "stage_failed"
    # The platform itself
    DATA_DIR_UNWRITABLE = "data_dir_unwritable"
    DATA_DIR_IN_USE = "data_dir_in_use"
    DATA_DIR_CORRUPT = "data_dir_corrupt"
    DISK_FULL = "disk_full"
    PORT_TAKEN = "port_taken"
    DEPENDENCY_MISSING = "dependency_missing"
    SERVICE_UNAVAILABLE = "service_unavailable"
    NOT_RUNNING = "not_running"
    START_FAILED = "start_failed"
    STALE_LEASE = "stale_lease"
    WORKER_KILLED = "worker_killed"
    CANCELLED = "cancelled"
    INTERNAL = "internal"


class LtpError(Exception):
    """An error meant for a person.

    `code` is stable, `message` says what is wrong with the facts of this case, `hint` says what to do next.
    """

    def __init__(self, code: ErrorCode, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".strip()
