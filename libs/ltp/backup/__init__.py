"""A platform in one file: streams, database and files, taken while it runs, and put back so that it goes on from there.

The streams are taken first, then the database: what was published in between is missing in the streams, and the outbox in
the database says what it was. The other way round, events would tell of things that no table knows.
"""
