"""Maths over model weights. The only lib that may import torch or numpy."""
