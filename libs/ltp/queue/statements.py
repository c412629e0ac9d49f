"""Every statement that puts work in or takes it out, as text: a worker's own connection prepares them, a unit runs them inside its transaction.

Times are the database's, so a service whose clock jumps neither loses a lease nor holds one too long. Literal states
stand in the text because the partial indexes (`tables`) are matched against them. `order by sort_at, id` is the turn.
"""

from __future__ import annotations

from ltp.queue.policy import JOIN_WINDOW
from ltp.queue.tables import READY, UNPLACED
from ltp.store.listener import WORK_CHANNEL

_CLAIMED = """
SET state = 'running', claims = w.claims + 1, worker = CAST(:worker AS text), lease_token = gen_random_uuid(),
    lease_until = now() + CAST(:lease AS interval), started_at = coalesce(w.started_at, now()), claimed_at = now()
"""
_HELD = (
    "w.id, w.kind, w.payload, w.lease_token, w.placement, w.failures, w.deaths, w.trace, w.cancel_requested, w.sort_at, "
    # A job that goes on keeps its old turn; it waits since it was put in again.
    "CAST(extract(epoch FROM now() - greatest(w.run_at, w.enqueued_at)) AS float8) AS waited"
)

# Placement waits for freed devices; workers held back by a limit wait for a freed place.
_FREED = f"""
CASE WHEN w.placement IS NOT NULL OR EXISTS (SELECT 1 FROM queue.limits WHERE restricts) THEN pg_notify('{WORK_CHANNEL}', '') END
"""

# The turn is ltp.queue.policy.turn, for one piece of work or many at once: `least` and `greatest` pass over nulls, and
# what comes in together for one owner follows at its spacing. One notification a kind, sent at commit. The arrays stand
# in subselects so that the planner cannot see their lengths: one plan then does for all, and is kept.
ENQUEUE = f"""
INSERT INTO queue.work (id, queue, kind, payload, dedup_key, state, run_at, sort_at,
                        priority, project, owner, wants, trace)
SELECT n.id, n.queue, n.kind, n.payload, n.dedup_key, 'queued', n.at,
       greatest(greatest(least(n.at + n.head_start, first.sort_at), n.at + n.head_start - interval '{JOIN_WINDOW.total_seconds():.0f} s'),
                own.sort_at + n.spacing)
           + n.spacing * (row_number() OVER (PARTITION BY n.queue, n.owner, n.priority ORDER BY n.place) - 1),
       n.priority, n.project, n.owner, n.wants, n.trace
FROM (SELECT *, coalesce(run_at, now()) AS at FROM unnest(
    (SELECT CAST(:id AS uuid[])), (SELECT CAST(:queue AS text[])), (SELECT CAST(:kind AS text[])), (SELECT CAST(:payload AS jsonb[])),
    (SELECT CAST(:dedup_key AS text[])), (SELECT CAST(:run_at AS timestamptz[])), (SELECT CAST(:head_start AS interval[])),
    (SELECT CAST(:spacing AS interval[])), (SELECT CAST(:priority AS int[])), (SELECT CAST(:project AS text[])), (SELECT CAST(:owner AS text[])),
    (SELECT CAST(:wants AS jsonb[])), (SELECT CAST(:trace AS jsonb[]))) WITH ORDINALITY
    AS u(id, queue, kind, payload, dedup_key, run_at, head_start, spacing, priority, project, owner, wants, trace,
         place)) AS n
LEFT JOIN LATERAL (SELECT sort_at FROM queue.work AS w
    WHERE w.state = 'queued' AND w.queue = n.queue AND w.priority = n.priority
    ORDER BY w.sort_at LIMIT 1) AS first ON true
LEFT JOIN LATERAL (SELECT sort_at FROM queue.work AS w
    WHERE w.state IN ('queued', 'running') AND w.queue = n.queue AND w.owner = n.owner AND w.priority = n.priority
    ORDER BY w.sort_at DESC LIMIT 1) AS own ON true
ON CONFLICT (dedup_key) DO NOTHING
RETURNING id, CASE WHEN wants IS NULL THEN pg_notify('{WORK_CHANNEL}_' || kind, '')
                   ELSE pg_notify('{WORK_CHANNEL}', '') END
"""

# Work with devices is done by who reaches the host that has them; a worker that serves any host says null.
_HERE = "(CAST(:hosts AS text[]) IS NULL OR placement IS NULL OR placement ->> 'host_id' = ANY(CAST(:hosts AS text[])))"

_CHOSEN = f"""
SELECT c.id FROM unnest(CAST(:kinds AS text[])) AS k(kind) CROSS JOIN LATERAL (
    SELECT id, sort_at FROM queue.work
    WHERE kind = k.kind AND {READY} AND {_HERE} AND run_at <= now() AND NOT EXISTS (SELECT 1 FROM queue.limits WHERE restricts)
    ORDER BY sort_at, id LIMIT CAST(:count AS int) FOR UPDATE SKIP LOCKED) AS c
ORDER BY c.sort_at, c.id LIMIT CAST(:count AS int)
"""

# Where no limit is set anywhere, the first work in turn is taken by whoever comes first.
CLAIM = f"""
WITH chosen AS ({_CHOSEN})
UPDATE queue.work AS w {_CLAIMED} FROM chosen WHERE w.id = chosen.id RETURNING {_HELD}
"""

# A claim alone need not wait for the disk: lost in a crash, the work is queued again and the token settles nothing.
# Whatever is settled later under that token syncs the claim before it.
_UNSYNCED = "set_config('synchronous_commit', 'off', true)"
_EASED = f"""
SELECT CASE WHEN cardinality(CAST(:ids AS uuid[])) = 0 THEN {_UNSYNCED} END AS eased
"""

# Done work is settled and new work taken in one round trip and one commit. One row at least: how many were settled.
TURNOVER = f"""
WITH settled AS (
    UPDATE queue.work AS w SET state = 'done', ended_at = now(), lease_token = NULL, lease_until = NULL
    FROM unnest(CAST(:ids AS uuid[]), CAST(:tokens AS uuid[])) AS d(id, token)
    WHERE w.id = d.id AND w.lease_token = d.token AND w.state = 'running' RETURNING {_FREED}),
chosen AS ({_CHOSEN}), eased AS ({_EASED}),
taken AS (UPDATE queue.work AS w {_CLAIMED} FROM chosen WHERE w.id = chosen.id RETURNING {_HELD})
SELECT s.settled, s.limited, w.* FROM (SELECT (SELECT count(*) FROM settled) AS settled,
    EXISTS (SELECT 1 FROM queue.limits WHERE restricts) AS limited, (SELECT eased FROM eased)) AS s LEFT JOIN taken AS w ON true
"""

_DEATHS = "w.deaths + CASE WHEN w.worker IS NULL THEN 0 ELSE 1 END"

# A worker that stopped in order let go of its work and left no name in it; that is no death.
EXPIRED = f"""
WITH chosen AS (
    SELECT w.id FROM queue.work AS w
    WHERE w.kind = ANY(CAST(:kinds AS text[])) AND w.state = 'running' AND w.lease_until <= now() AND {_HERE}
      AND {_DEATHS} >= CAST(:deaths_from AS int) AND {_DEATHS} < CAST(:deaths_below AS int)
    ORDER BY w.lease_until LIMIT CAST(:count AS int) FOR UPDATE SKIP LOCKED)
UPDATE queue.work AS w {_CLAIMED}, deaths = {_DEATHS} FROM chosen WHERE w.id = chosen.id RETURNING {_HELD}
"""

# Nor need a heartbeat: lost in a crash, the next one comes before the lease runs out.
HEARTBEAT = f"""
WITH eased AS (SELECT {_UNSYNCED})
UPDATE queue.work AS w SET lease_until = now() + CAST(:lease AS interval)
FROM unnest(CAST(:ids AS uuid[]), CAST(:tokens AS uuid[])) AS d(id, token), eased
WHERE w.id = d.id AND w.lease_token = d.token AND w.state = 'running' RETURNING w.id, w.cancel_requested
"""

REGISTER = f"""
WITH eased AS (SELECT {_UNSYNCED})
INSERT INTO queue.workers (name, kind, host, pid, concurrency)
SELECT CAST(:name AS text), CAST(:kind AS text), CAST(:host AS text), CAST(:pid AS int), CAST(:concurrency AS int) FROM eased
ON CONFLICT (name) DO UPDATE SET seen_at = now()
"""

UNREGISTER = "DELETE FROM queue.workers WHERE name = CAST(:name AS text)"

RELEASE = """
UPDATE queue.work AS w SET lease_until = now(), worker = NULL
FROM unnest(CAST(:ids AS uuid[]), CAST(:tokens AS uuid[])) AS d(id, token)
WHERE w.id = d.id AND w.lease_token = d.token AND w.state = 'running' RETURNING w.id
"""

SETTLE = f"""
UPDATE queue.work AS w
SET state = CAST(:state AS text), ended_at = CASE WHEN CAST(:state AS text) = 'queued' THEN NULL ELSE now() END, lease_token = NULL,
    lease_until = NULL, failures = w.failures + CAST(:failed AS int),
    problem = coalesce(CAST(:problem AS jsonb), w.problem),
    run_at = CASE WHEN CAST(:state AS text) = 'queued' THEN now() + CAST(:delay AS interval) ELSE w.run_at END
WHERE w.id = CAST(:id AS uuid) AND w.lease_token = CAST(:token AS uuid) AND w.state = 'running'
RETURNING w.id, {_FREED}
"""

# Whoever would take work under limits waits here for those who do, and then counts what runs with a fresh snapshot.
LOCK_LIMITS = "SELECT * FROM queue.limits WHERE restricts ORDER BY scope, name FOR UPDATE"

USAGE = """
SELECT queue, project, count(*) AS running, coalesce(sum(CAST(wants ->> 'count' AS int)), 0) AS devices FROM queue.work
WHERE state = 'running' OR (state = 'queued' AND placement IS NOT NULL) GROUP BY queue, project
"""

# The first work of each lane: a loose index scan over (kind, queue, project), so that a lane held back by its limit,
# however long, costs one probe.
CANDIDATES = f"""
WITH RECURSIVE lane AS (
    (SELECT kind, queue, project FROM queue.work WHERE {READY} AND kind = ANY(CAST(:kinds AS text[]))
     ORDER BY kind, queue, project LIMIT 1)
    UNION ALL
    SELECT n.* FROM lane CROSS JOIN LATERAL (
        SELECT w.kind, w.queue, w.project FROM queue.work AS w
        WHERE {READY} AND w.kind = ANY(CAST(:kinds AS text[]))
          AND (w.kind, w.queue, w.project) > (lane.kind, lane.queue, lane.project)
        ORDER BY w.kind, w.queue, w.project LIMIT 1) AS n)
SELECT c.* FROM lane CROSS JOIN LATERAL (
    SELECT w.id, w.queue, w.project, w.sort_at, w.placement IS NOT NULL OR w.cancel_requested AS placed FROM queue.work AS w
    WHERE {READY} AND {_HERE} AND w.kind = lane.kind AND w.queue = lane.queue AND w.project = lane.project
      AND w.run_at <= now()
    ORDER BY w.sort_at LIMIT CAST(:count AS int)) AS c
ORDER BY c.sort_at, c.id
"""

CLAIM_THESE = f"""
WITH chosen AS (SELECT id FROM queue.work WHERE id = ANY(CAST(:ids AS uuid[])) AND state = 'queued'
                FOR UPDATE SKIP LOCKED)
UPDATE queue.work AS w {_CLAIMED} FROM chosen WHERE w.id = chosen.id RETURNING {_HELD}
"""

UNPLACED_IN_TURN = f"""
WITH RECURSIVE lane AS (
    (SELECT queue, project FROM queue.work WHERE {UNPLACED} ORDER BY queue, project LIMIT 1)
    UNION ALL
    SELECT n.* FROM lane CROSS JOIN LATERAL (
        SELECT w.queue, w.project FROM queue.work AS w
        WHERE {UNPLACED} AND (w.queue, w.project) > (lane.queue, lane.project)
        ORDER BY w.queue, w.project LIMIT 1) AS n)
SELECT c.* FROM lane CROSS JOIN LATERAL (
    SELECT w.id, w.queue, w.project, w.owner, w.priority, w.kind, w.wants, w.payload, w.dedup_key, w.enqueued_at,
           w.sort_at
    FROM queue.work AS w
    WHERE {UNPLACED} AND w.queue = lane.queue AND w.project = lane.project AND w.run_at <= now()
    ORDER BY w.sort_at LIMIT CAST(:count AS int)) AS c
ORDER BY c.sort_at, c.id
"""
