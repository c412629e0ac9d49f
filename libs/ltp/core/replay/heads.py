"""Loss heads: what turning hidden states into a loss allocates, for the four heads of `ltp.core.memory.LossHead`."""

from __future__ import annotations

from typing import Any

from ltp.core.memory import LossHead, Precision
from ltp.core.replay.layers import Decoder
from ltp.core.replay.operations import Gradients
from ltp.core.replay.tape import Buffer, Value, Weight


def loss_of(run: Decoder, hidden: Value, head: Weight) -> tuple[Value, list[Value]]:
    """The loss, and what the caller holds while backward runs (the model's output)."""
    if run.step.loss_head is LossHead.CHUNKED:
        return _chunked(run, hidden, head), []
    logits = run.linear(hidden, head, None, run.arch.vocab)
    if run.arch.scales:
        logits = run.scaled(logits)
    if run.arch.final_softcap:
        logits = _softcap(run, logits)
    del hidden
    if run.step.loss_head is LossHead.CROSS_ENTROPY:
        return _cross_entropy(run, run.cast(logits, 4)), [logits]
    raise AssertionError(run.step.loss_head)


def _softcap(run: Decoder, logits: Value) -> Value:
    """Scale down, tanh (which saves its output), scale up."""
    n, width = logits.count, logits.width

    def scaled(value: Value) -> Value:
        return run.tape.out(Value(run.new(n, width), n, width), [value], None, lambda g, s: (run.new(n, width),))

    logits = scaled(logits)
    capped = Value(run.new(n, width), n, width)
    saved = run.tape.keep(capped.buffer)
    capped = run.tape.out(capped, [logits], saved, lambda g, s: (run.new(n, width),))
    del logits
    return scaled(capped)


def _cross_entropy(run: Decoder, fine: Value) -> Value:
    """Log-softmax and the mean of the labels' negative log-likelihood, in fp32."""
    n = fine.count
    log_soft = Value(run.new(n, 4), n, 4)
    saved = run.tape.keep(log_soft.buffer)
    log_soft = run.tape.out(log_soft, [fine], saved, lambda g, s: (run.new(n, 4),))
    loss = Value(run.new(1, 4), 1, 4)
    saved = run.tape.keep(log_soft.buffer)
    return run.tape.out(loss, [log_soft], saved, lambda g, s: (run.new(n, 4),))


def _chunked(run: Decoder, hidden: Value, head: Weight) -> Value:
    """Pieces of the rows, each checkpointed, so that logits exist for one piece at a time."""
    rows, each = run.step.tokens, run.step.chunk
    width = hidden.count // rows
    total = Value(run.new(1, 4), 1, 4)
    if run.tape.autocast:
        hidden = run.cast(hidden, run.width)
    whole, size = hidden.count, hidden.width
    for start in range(0, rows, each):
        count = min(each, rows - start) * width
        piece = run.tape.out(Value(hidden.buffer, count, size), [hidden], None, lambda g, s: (run.new(whole, size),))

        def stretch(piece: Value = piece) -> Value:
            return _cross_entropy(run, run.cast(run.linear(piece, head, None, run.arch.vocab), 4))

        loss = run.tape.checkpoint(stretch)
        total = run.tape.out(Value(run.new(1, 4), 1, 4), [total, loss], None, lambda g, s: (g, g))
    return total


def policy_loss(run: Decoder, logits: Value) -> Value:
    """Log-probabilities row by row and the entropy over all, as verl's actor without flash-attn computes them."""
    labels = run.step.loss_head is LossHead.LABELS
    if labels:
        # verl copies the logits of the rows without their padding.
        logits = run.scaled(logits)
    fine = 4 if run.step.precision is not Precision.BF16 else logits.width
    rows = run.step.micro_batch
    log_probs = _row_by_row(run, logits, rows, fine)
    if labels:
        return log_probs
    spread = _log_sum(run, logits, fine)
    entropy = _entropy(run, logits, fine)
    out = Value(run.new(1, 4), 1, 4)
    return run.tape.out(out, [log_probs, spread, entropy], None, lambda g, s: (g, g, g))


def _row_by_row(run: Decoder, logits: Value, rows: int, fine: int) -> Value:
    n, narrow, kept = logits.count // rows, logits.width, list[Buffer]()
    for _ in range(rows):
        wide = run.new(n, fine) if fine != narrow else None
        kept.append(run.new(n, fine))
        del wide
    saved = run.tape.keep(kept)
    del kept

    def back(g: Buffer, saved: Any) -> Gradients:
        (kept,) = saved
        del saved
        gradients: list[Buffer] = []
        while kept:
            scattered = run.new(n, fine)
            gradient = run.new(n, fine)
            del scattered
            kept.pop()
            if fine != narrow:
                gradient = run.new(n, narrow)
            gradients.append(gradient)
            del gradient
        stacked = run.new(n * rows, narrow)
        gradients.clear()
        return (stacked,)

    return run.tape.out(Value(run.new(rows * 4, 4), rows, 4), [logits], saved, back)


def _log_sum(run: Decoder, logits: Value, fine: int) -> Value:
    """logsumexp: keeps its input; its backward holds four copies at once (seen on torch 2.11, bf16 and fp32 alike)."""
    n, narrow = logits.count, logits.width
    wide = run.new(n, fine) if fine != narrow else logits.buffer
    shifted = run.new(n, fine)
    del shifted
    saved = run.tape.keep(wide)
    del wide

    def back(g: Buffer, saved: Any) -> Gradients:
        parts = [run.new(n, fine) for _ in range(4)]
        gradient = parts.pop()
        parts.clear()
        del saved
        return (run.new(n, narrow) if fine != narrow else gradient,)

    return run.tape.out(Value(run.new(1, 4), 1, 4), [logits], saved, back)


def _entropy(run: Decoder, logits: Value, fine: int) -> Value:
    """sum(softmax(x) * x): keeps the softmax and x."""
    n, narrow = logits.count, logits.width
    wide = run.new(n, fine) if fine != narrow else None
    soft = Value(run.new(n, fine), n, fine)
    del wide
    saved = run.tape.keep(soft.buffer)

    def soft_back(g: Buffer, saved: Any) -> Gradients:
        gradient = run.new(n, fine)
        del g, saved
        return (run.new(n, narrow) if fine != narrow else gradient,)

    soft = run.tape.out(soft, [logits], saved, soft_back)
    product = run.new(n, fine)
    del product
    saved = run.tape.keep(soft.buffer, logits.buffer)

    def back(g: Buffer, saved: Any) -> Gradients:
        g_soft, g_logits = run.new(n, fine), run.new(n, fine)
        if fine != narrow:
            g_logits = run.new(n, narrow)
        return g_soft, g_logits

    return run.tape.out(Value(run.new(1, 4), 1, 4), [soft, logits], saved, back)
