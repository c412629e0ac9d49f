"""`python -m ltp.store.migrate`: bring the database at LTP_DATABASE_URL to the newest schema."""

from __future__ import annotations

import os
import sys

from ltp.store.schema import migrate


def main() -> int:
    """Run the migration; 2 when no database is named."""
    url = os.environ.get("LTP_DATABASE_URL")
    if not url:
        print("LTP_DATABASE_URL is not set: name the database to migrate.", file=sys.stderr)
        return 2
    migrate(url)
    return 0


if __name__ == "__main__":
    sys.exit(main())
