#!/bin/sh
# A worker of which one works at a time, and writes to a database that refuses whoever led in the past:
#
#   psql "$DATABASE" -f examples/fence.sql
#   export DATABASE='host=127.0.0.1 user=postgres'
#   leader-election --name server1 -- examples/worker.sh
#
# The wrapper sees to it that no two of these run. What it cannot see to is a machine that is paused in the middle of
# one: the token is for that.

: "${DATABASE:?set it to where PostgreSQL is}" "${LEADER_ELECTION_TOKEN:?this is for leader-election to run}"

while :; do
    psql "$DATABASE" --no-psqlrc --quiet --output=/dev/null --set=ON_ERROR_STOP=1 \
        --set=election="$LEADER_ELECTION_LEADER_KEY" --set=token="$LEADER_ELECTION_TOKEN" \
        --set=worker="$LEADER_ELECTION_NAME" <<'END' || echo "$LEADER_ELECTION_NAME could not work" >&2
BEGIN;
SELECT pass_fence(:'election', :token);
INSERT INTO work (worker, token) VALUES (:'worker', :token);
COMMIT;
END
    sleep 0.1
done
