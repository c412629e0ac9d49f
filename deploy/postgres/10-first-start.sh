#!/bin/sh
# Once, when the cluster is made: the type of vectors, and a role for Grafana that is granted the tables of curves and events by the migrations, and no others.
set -eu
psql -v ON_ERROR_STOP=1 -v password="$LTP_GRAFANA_DB_PASSWORD" --username "$POSTGRES_USER" --dbname "$POSTGRES_DB" <<'SQL'
CREATE EXTENSION IF NOT EXISTS vector;
CREATE ROLE grafana LOGIN PASSWORD :'password';
GRANT CONNECT ON DATABASE ltp TO grafana;
SQL
