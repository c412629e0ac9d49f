"""A small OpenAI-compatible inference server for hosts without vLLM; the only part of the evaluator that imports torch.

Not `transformers serve` (5.10.4, --continuous-batching): both gave the same 64 answers of SmolLM2-135M on CPU, side by
side with one thread each, this one in 29 CPU-seconds and that one in 42; and that one answers 500 for its list of
models where no hub cache exists, and an unknown model with 400 outside OpenAI's form of an error.
"""
