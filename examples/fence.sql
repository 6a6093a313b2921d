-- Makes a PostgreSQL database refuse a former leader: for each election, the database remembers the highest fencing
-- token that it has seen. Load this file once: psql -f examples/fence.sql
--
-- A leader calls pass_fence first in each transaction:
--
--   BEGIN;
--   SELECT pass_fence('leader', 42);
--   INSERT INTO work (worker, token) VALUES ('server1', 42);
--   COMMIT;
--
-- If the database has seen a higher token, pass_fence raises an error, and the transaction changes nothing. A higher
-- token waits until the transactions with lower tokens have ended, because they keep the row locked.

CREATE TABLE fence (
    election text PRIMARY KEY,
    token bigint NOT NULL
);

CREATE FUNCTION pass_fence(the_election text, the_token bigint) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO fence VALUES (the_election, the_token)
        ON CONFLICT (election) DO UPDATE SET token = excluded.token WHERE fence.token <= excluded.token;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'the token % of election "%" is stale', the_token, the_election;
    END IF;
END
$$;

-- The work of the example's workers.
CREATE TABLE work (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    worker text NOT NULL,
    token bigint NOT NULL
);
