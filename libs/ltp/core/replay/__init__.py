"""Replays a training step's allocations without torch: exact where the closed form of `ltp.core.memory` bounds.

The step is written down once in the order in which PyTorch runs it; a simulation of the CUDA caching allocator turns that
order into what is handed out and what is held. It predicts fragmentation, which no formula over sizes can.
"""
