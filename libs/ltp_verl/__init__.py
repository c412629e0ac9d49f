"""What runs inside the training process on any host: CPU platform, CPU rollout, stop hook."""
