"""The REST API, one noun a file. Routes translate; rules live in the services that own the nouns."""
