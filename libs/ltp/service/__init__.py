"""What all seven services share at start: settings, connections, relay, workers, health; so that each `app.py` is wiring."""
