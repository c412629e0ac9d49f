"""`ltp up`: the embedded servers and the services of one data directory, started, kept alive and stopped together."""
