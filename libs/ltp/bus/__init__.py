"""FastStream on JetStream, set up once for all: subscriptions that neither lose nor storm, the outbox relay, request/reply."""
