-- A database that refuses a former leader: it remembers the highest fencing token that it has
-- seen, for each election. For PostgreSQL; load it once: psql -f examples/fence.sql
--
-- A leader calls pass_fence first in each transaction:
--
--   BEGIN;
--   SELECT pass_fence('leader', 42);
--   INSERT INTO work (worker, token) VALUES ('server1', 42);
--   COMMIT;
--
-- A token that is lower than one seen before is an error, and nothing of the transaction happens. One that is
-- higher waits until the transactions of lower ones have ended: the row stays locked until then.

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

-- What the workers of the example do.
CREATE TABLE work (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    worker text NOT NULL,
    token bigint NOT NULL
);
