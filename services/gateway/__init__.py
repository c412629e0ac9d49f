"""The gateway promises one door: REST and live streams in front of everything the other services do."""
