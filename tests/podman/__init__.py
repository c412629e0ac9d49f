"""The stack of docker-compose.yml without Docker: built, started, worked and taken down with podman on a bootstrapped base."""
