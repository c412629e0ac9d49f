"""Imported by the processes of a service under test: files are read in small blocks, so that there are many moments to be killed at."""

from services.dataset import source, spool

source.BLOCK_BYTES = 16_384
spool.RANGE_BYTES = 65_536
