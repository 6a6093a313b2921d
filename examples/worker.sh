#!/bin/sh
# A worker that works only on the leader. It writes to a database that refuses any former leader:
#
#   psql "$DATABASE" -f examples/fence.sql
#   export DATABASE='host=127.0.0.1 user=postgres'
#   leader-election --name server1 -- examples/worker.sh
#
# The wrapper ensures that no two workers run at the same time. It cannot stop a machine that is paused in the middle of
# a transaction; the fencing token protects you there.

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
