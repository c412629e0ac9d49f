"""A small OpenAI-compatible inference server for hosts without vLLM; the only part of the evaluator that imports torch.

Not `transformers serve`: with continuous batching on CPU it took 126 CPU-seconds for 1,348 tokens that batched
generation makes in a fraction of that, and offline its model list answers 500 (docs/evaluation.md).
"""
