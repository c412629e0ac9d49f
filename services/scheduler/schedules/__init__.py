"""Work that is done at certain times: each tick once, however many schedulers run."""
