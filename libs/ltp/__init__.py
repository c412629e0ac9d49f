"""The LLM training platform: shared libraries. Services import these; these import no service."""
