"""`ltp up`, with real servers and stand-ins for the services."""
