-- Roll-ups, for charts that go back years; the second version of the file.
CREATE INDEX readout_taken ON readout (meter, taken);
-- The temperature outside, where somebody publishes it: the sum of what came in an hour.
CREATE TABLE outdoor (
    hour INTEGER PRIMARY KEY,  -- since 1970
    total TEXT NOT NULL,
    count INTEGER NOT NULL
);
-- The last hour that is rolled up; NULL before the first.
ALTER TABLE meter ADD COLUMN rolled INTEGER;
-- What a numeric register did in an hour, and what closed it: see rollup.py. Kept for ever.
CREATE TABLE hour (
    meter INTEGER NOT NULL REFERENCES meter,
    register INTEGER NOT NULL,
    hour INTEGER NOT NULL,  -- since 1970
    unit TEXT NOT NULL,
    first TEXT NOT NULL,
    first_taken INTEGER NOT NULL,  -- microseconds since 1970
    last TEXT NOT NULL,
    last_taken INTEGER NOT NULL,
    low TEXT NOT NULL,
    high TEXT NOT NULL,
    total TEXT NOT NULL,
    count INTEGER NOT NULL,
    PRIMARY KEY (meter, register, hour)
) WITHOUT ROWID;
